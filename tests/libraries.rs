//! Libraries and flags that sources name, and sources in C++.

use crate::support::{self, Server, cweb, module, root};
use std::fs;
use std::sync::Arc;

fn source(name: &str) -> String {
    fs::read_to_string(root().join("tests/modules").join(name)).unwrap()
}

/// A module that answers on `/p`, with `line` before it.
fn with_pragma(line: &str) -> String {
    format!("{line}\n{}", support::constant("p", "/p", "plain"))
}

#[test]
fn a_source_names_its_libraries_and_flags() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[]);
    let deployed = server.deploy(&source("compress.c"));
    assert!(!deployed.text().contains("warning"), "{}", deployed.text());
    let text = "abc ".repeat(200);
    let answer = server.post("/compress", text.as_bytes()).text();
    assert_eq!(answer, format!("{text}|two words|1|smaller"));
    // What needs no other library is as before, `m` too.
    server.deploy(&with_pragma("#pragma cweb link(\"m\")"));
    assert_eq!(server.get("/p").text(), "plain");
    server.stop();
    // The libraries are found again at the next start, and nothing is compiled.
    let server = Server::on(&dir, &[], &[("CC", "cc")]);
    assert_eq!(server.post("/compress", b"x").status, 200);
}

#[test]
fn what_can_not_be_linked_is_said() {
    let server = Server::start();
    for (line, words) in [
        ("#pragma cweb link(\"curl\")", "cweb serve --allow-lib curl"),
        ("#pragma cweb link(\"gmpp\")", "the library gmpp is not known; did you mean link(\"gmp\")?"),
        ("\n#pragma cweb link(\"/usr/lib/libz.so\")", "module.c:2: error: "),
        ("#pragma cweb link(\"../z\")", "can't name a library"),
        ("#pragma cweb link(\"-Wl,-z,execstack\")", "can't name a library"),
        ("#pragma cweb link(\"@/etc/passwd\")", "can't name a library"),
        ("#pragma cweb link(\"a..b\")", "can't name a library"),
        ("#pragma cweb link(z)", "is written like"),
        ("#pragma cweb linked(\"z\")", "is not known"),
        ("#pragma cweb cflags(\"-fplugin=/tmp/x.so\")", "is not allowed"),
        ("#pragma cweb cflags(\"-wrapper\", \"/bin/sh\")", "is not allowed"),
        ("#pragma cweb cflags(\"@/etc/passwd\")", "is not allowed"),
        ("#pragma cweb cflags(\"-I/etc\")", "beside the source"),
        ("#pragma cweb cflags(\"-specs=/tmp/x\")", "is not allowed"),
        ("#pragma cweb cflags(\"-include\", \"/etc/passwd\")", "is not allowed"),
        ("#pragma cweb cflags(\"-DCWEB_MODULE_API=2\")", "are the server's"),
        ("#pragma cweb cflags(\"-O3 -fplugin=x\")", "is not allowed"),
    ] {
        let refused = server.try_deploy(&with_pragma(line));
        assert_eq!(refused.status, 422, "{line}: {}", refused.text());
        assert!(refused.text().contains(words), "{line}: {}", refused.text());
    }
    let sends = "static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c;\n\
         return cweb_send_file_from(q, r, \"static\", \"x\", CWEB_FILE_PLAIN); }";
    let refused = server.try_deploy(&code_module(sends)).text();
    let hint = "cweb_send_file_from, CWEB_FILE_PLAIN are declared in <cweb_file.h>: add #include <cweb_file.h>";
    assert!(refused.contains(hint), "{refused}");
    // In a comment or a text it asks for nothing.
    server.deploy(&with_pragma("/* #pragma cweb link(\"../z\") */ // #pragma cweb x"));
    drop(server);
    let server = Server::with(&["--allow-lib", "no-such-library"]);
    let refused = server.try_deploy(&with_pragma("#pragma cweb link(\"no-such-library\")")).text();
    assert!(refused.contains("libno-such-library.so") && refused.contains("not installed"), "{refused}");
    // A version whose library is not allowed any more is not gone back to, and the live one stays.
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--allow-lib", "crypto"], &[]);
    server.deploy(&with_pragma("#pragma cweb link(\"crypto\")"));
    server.deploy(&with_pragma(""));
    server.stop();
    let server = Server::on(&dir, &[], &[]);
    let refused = server.post("/mgnt/p/rollback?version=1", b"");
    assert!(refused.status == 422 && refused.text().contains("crypto"), "{}", refused.text());
    assert_eq!(server.get("/p").text(), "plain");
}

#[test]
fn flags_reach_the_compiler() {
    let server = Server::start();
    let code = "#pragma cweb cflags(\"-O3\", \"-march=native\", \"-ffast-math\", \"-std=c17\", \"-fopenmp\", \"-DTIMES=7\")\n\
         static int sum(void) { int s = 0;\n#pragma omp parallel for reduction(+:s)\nfor (int i = 0; i < 1000; i++) s += TIMES; return s; }\n\
         static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q;\n\
         return cweb_respond(r, 200, \"text/plain\", \"%d %ld %d\", sum(), __STDC_VERSION__, _OPENMP > 0); }";
    let version = |n: usize| {
        server.deploy(&code_module(&code.replace("TIMES=7", &format!("TIMES={n}"))));
        assert_eq!(server.get("/flags").text(), format!("{} 201710 1", n * 1000));
    };
    // The threads of OpenMP stay when the module they ran for is replaced.
    (7..10).for_each(version);
    let wrong = code_module(
        "#pragma cweb cflags(\"-Wall\", \"-Wno-error=incompatible-pointer-types\")\nstatic int h(int x) { return x; }",
    );
    let refused = server.try_deploy(&wrong);
    assert_eq!(refused.status, 422, "a flag can't switch off what must be an error: {}", refused.text());
}

fn code_module(code: &str) -> String {
    module("flags", code, "{\"/flags\", \"GET\", h, NONE}", 1, "")
}

/// Deploys a file by the command, which sends its name.
fn deploy_as(server: &Server, file: &str, text: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(file), text).unwrap();
    cweb(&["deploy", file, "--server", &server.addr], dir.path(), &[])
}

#[test]
fn modules_in_cpp() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[]);
    let (done, said) = deploy_as(&server, "cpp.cpp", &source("cpp.cpp"));
    assert!(done, "{said}");
    assert_eq!(server.get("/cpp/caught").text(), "constructed 1");
    assert_eq!(server.get("/cpp/lambda").text(), "lambda");
    assert_eq!(server.get("/cpp/thrown").status, 500, "{}", server.log());
    // A new version begins anew: the old one's code is not kept in the process.
    let next = source("cpp.cpp").replace("\"constructed\"", "\"replaced\"");
    assert!(deploy_as(&server, "cpp.C", &next).0, "as compilers read it");
    assert_eq!(server.get("/cpp/caught").text(), "replaced 1");
    let (done, said) =
        deploy_as(&server, "wrong.cpp", "#include <cweb.h>\nint f() { return undeclared; }\ncweb_stream_t *s;\n");
    assert!(!done && said.contains("wrong.cpp:2:") && said.contains("undeclared"), "{said}");
    assert!(said.contains("cweb_stream_t is declared in <cweb_stream.h>: add #include <cweb_stream.h>"), "{said}");
    let undefined =
        "#include <cweb.h>\nint gone(int);\nint f() { return gone(1); }\nexport module_t config = {.name = \"u\"};\n";
    let (done, said) = deploy_as(&server, "u.cpp", undefined);
    assert!(!done && said.contains("u.cpp:3: error: 'gone(int)' is declared, but defined nowhere"), "{said}");
    // Without a file's name the language is a field of the form, or a parameter.
    let words = fs::read_to_string(root().join("example/words.cpp")).unwrap();
    let deployed = server.post("/mgnt?language=c%2B%2B", words.as_bytes());
    assert_eq!(deployed.status, 200, "{}", deployed.text());
    assert_eq!(server.post("/words", b"to be or not to be").text(), "2 be\n2 to\n1 not\n1 or\n");
    server.stop();
    let server = Server::on(&dir, &[], &[]);
    assert_eq!(server.get("/cpp/caught").text(), "replaced 1");
    assert_eq!(server.post("/words", b"a").text(), "1 a\n");
}
