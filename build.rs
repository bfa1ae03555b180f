//! Compiles the C part of the server (`src/abi/native/`) against the SDK's headers (`include/`).

/// Sources of the native part, in `src/abi/native/`.
const SOURCES: [&str; 17] = [
    "call.c",
    "calls.c",
    "connection.c",
    "database.c",
    "guard.c",
    "handed.c",
    "keep.c",
    "layout.c",
    "legacy.c",
    "pool.c",
    "request.c",
    "services.c",
    "stdio.c",
    "tables.c",
    "threads.c",
    "trace.c",
    "worker.c",
];

fn main() {
    println!("cargo:rerun-if-changed=src/abi/native");
    println!("cargo:rerun-if-changed=include");

    let mut build = cc::Build::new();
    build
        .include("include")
        .std("gnu11")
        .warnings(true)
        .extra_warnings(true)
        // A fault jumps over these frames only; the frame pointer keeps profiles and crash reports readable.
        .flag("-fno-omit-frame-pointer")
        // An exception of C++ that leaves a handler ends here as std::terminate() and SIGABRT, which is the handler's fault:
        // where the unwinder finds no table it stops. With one it would reach Rust, which ends the process.
        .flag("-fno-asynchronous-unwind-tables")
        .flag("-fno-unwind-tables");
    for source in SOURCES {
        build.file(format!("src/abi/native/{source}"));
    }
    build.compile("cweb_native");

    // With unwind tables: a handler of std::terminate() follows the stack to the place of the throw.
    cc::Build::new()
        .include("include")
        .std("gnu11")
        .warnings(true)
        .extra_warnings(true)
        .flag("-fno-omit-frame-pointer")
        .flag("-fasynchronous-unwind-tables")
        .file("src/abi/native/exceptions.c")
        .compile("cweb_exceptions");

    // With the headers of the older generation, for the comparison of layouts.
    cc::Build::new()
        .include("include/legacy")
        .include("include")
        .define("CWEB_MODULE_API", "2")
        .std("gnu11")
        .warnings(true)
        .extra_warnings(true)
        .file("src/abi/native/legacy/layout.c")
        .compile("cweb_legacy");

    // Shared objects that were built without the server call the program's exit(3): see guard.c.
    println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol=exit");

    // The system's SQLite, the same copy that rusqlite and the modules use. After the archive that needs it.
    println!("cargo:rustc-link-lib=dylib=sqlite3");
}
