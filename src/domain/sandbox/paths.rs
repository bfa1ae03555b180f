//! The files that every program of the system needs.

use std::path::{Path, PathBuf};

/// Programs and libraries; `/nix/store` has both on NixOS.
const SYSTEM: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"];

/// Files that libraries read at their start: the paths of libraries, the time zone, OpenSSL's settings, the processors.
const START: [&str; 9] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/ssl/openssl.cnf",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/sys/devices/system/cpu",
];

/// Files for resolving names and checking certificates.
const NETWORK: [&str; 11] = [
    "/etc/resolv.conf",
    "/run/systemd/resolve",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl/certs",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
];

/// Directories in a compiler's prefix that it needs besides its programs and headers.
const PREFIX: [&str; 6] = ["lib", "lib32", "lib64", "libexec", "include", "share"];

/// Paths that code linked with the system's libraries must read; none of them is secret on any system.
#[must_use]
pub fn system_paths() -> Vec<PathBuf> {
    SYSTEM.iter().chain(&START).map(PathBuf::from).chain(listed("LD_LIBRARY_PATH")).collect()
}

/// Further paths that code with network access must read.
#[must_use]
pub fn network_paths() -> Vec<PathBuf> {
    NETWORK.iter().map(PathBuf::from).collect()
}

/// Paths that the compiler `program` must execute: the system's programs, and those in its own prefix if it lies elsewhere.
#[must_use]
pub fn compiler_paths(program: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    for program in [Some(program.to_path_buf()), program.canonicalize().ok()].into_iter().flatten() {
        let Some(dir) = program.parent().filter(|dir| !SYSTEM.iter().any(|system| dir.starts_with(system))) else {
            continue;
        };
        paths.push(dir.to_path_buf());
        if let Some(prefix) = dir.parent().filter(|_| dir.ends_with("bin")) {
            paths.extend(PREFIX.map(|name| prefix.join(name)));
        }
    }
    paths
}

/// Further paths that a compiler must read: the directories of headers and libraries in the environment.
#[must_use]
pub fn compiler_inputs() -> Vec<PathBuf> {
    let named = ["CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH"].into_iter().flat_map(listed);
    system_paths().into_iter().chain(named).collect()
}

/// The absolute paths in an environment variable's list.
fn listed(variable: &str) -> Vec<PathBuf> {
    let value = std::env::var_os(variable).unwrap_or_default();
    // A policy travels as JSON, so a path that is not UTF-8 can't be granted.
    std::env::split_paths(&value).filter(|path| path.is_absolute() && path.to_str().is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_elsewhere_brings_its_prefix_and_no_more() {
        let system = compiler_paths(Path::new("/usr/bin/cc"));
        assert_eq!(system, compiler_paths(Path::new("/bin/cc")));
        assert!(!system.contains(&PathBuf::from("/")));
        let own = compiler_paths(Path::new("/opt/gcc/bin/gcc"));
        assert!(own.contains(&"/opt/gcc/bin".into()) && own.contains(&"/opt/gcc/libexec".into()));
        assert!(!own.contains(&"/opt/gcc".into()));
        assert_eq!(compiler_paths(Path::new("/home/me/cc")).len(), system.len() + 1);
    }
}
