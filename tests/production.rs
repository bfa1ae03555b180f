//! `production.sh` from start to stop: makes what is missing, keeps what is there, serves HTTPS, wants the key.

use crate::support::{self, constant, root, signal};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// `production.sh ARGS` with this build and its data in `dir`.
fn script(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(root().join("production.sh"));
    for name in ["CWEB_ADMIN_KEY", "CWEB_TLS_CERT", "CWEB_TLS_KEY", "CWEB_CACERT", "PORT", "CWEB_TLS_NAMES"] {
        command.env_remove(name);
    }
    command.args(args).env("CWEB_BIN", env!("CARGO_BIN_EXE_cweb")).env("CWEB_DATA_DIR", dir);
    // A busy machine may keep a compiler waiting.
    command.env("CWEB_COMPILE_TIMEOUT_MS", "50000");
    command.env("CWEB_ISOLATION", support::isolation()).stdin(Stdio::null());
    command
}

/// A server that the script has become.
struct Running {
    child: Child,
    /// What it said until it listened.
    said: String,
    url: String,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = String::new();
        let url = lines.by_ref().find_map(|line| {
            said += &line;
            said.push('\n');
            let port = line.strip_prefix("listening on https://0.0.0.0:")?;
            Some(format!("https://localhost:{port}"))
        });
        // What it says later is of no interest, but has to go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        let url = url.unwrap_or_else(|| panic!("it does not listen: {said}"));
        Self { child, said, url }
    }

    fn stop(mut self) {
        signal(self.child.id(), "TERM");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn refusal(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    text(&output)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn curl(url: &str, cacert: &Path, args: &[&str]) -> Output {
    Command::new("curl").args(["-sS", "--cacert"]).arg(cacert).args(args).arg(url).output().unwrap()
}

#[test]
fn from_nothing_to_a_deployed_module_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data with a space");
    let (cert, key, admin_key) = (data.join("server.crt"), data.join("server.key"), data.join("admin.key"));
    // Nobody is there to be asked.
    let said = refusal(script(&data, &["--port", "0"]));
    assert!(said.contains("--yes"), "{said}");
    assert!(!cert.exists() && !key.exists() && !admin_key.exists());

    let mut command = script(&data, &["--prepare", "--yes"]);
    command.env("CWEB_TLS_NAMES", "example.org,192.0.2.7,bad name;");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let prepared = text(&output);
    let server = Running::start(script(&data, &["--port", "0"]));
    let secret = fs::read_to_string(&admin_key).unwrap().trim().to_owned();
    assert_eq!((mode(&key), mode(&admin_key), secret.len()), (0o600, 0o600, 64));
    assert!(
        prepared.contains("made an admin key: ") && !(prepared.clone() + &server.said).contains(&secret),
        "{prepared}"
    );
    assert!(prepared.contains("DNS:example.org,IP:192.0.2.7"), "{prepared}");
    assert_eq!(curl(&format!("{}/healthz", server.url), &cert, &[]).stdout, b"ok\n");
    let status = |args: &[&str]| {
        let args = [&["-o", "/dev/null", "-w", "%{http_code}"], args].concat();
        String::from_utf8(curl(&format!("{}/mgnt", server.url), &cert, &args).stdout).unwrap()
    };
    assert_eq!(status(&[]), "401");
    assert_eq!(status(&["-H", &format!("X-API-Key: {secret}")]), "200");

    fs::write(dir.path().join("hello.c"), constant("hello", "/hello", "from production")).unwrap();
    let deploy = |key: &str| {
        let args = ["deploy", "hello.c", "--server", &server.url, "--cacert", cert.to_str().unwrap()];
        support::cweb(&args, dir.path(), &[("CWEB_ADMIN_KEY", key)])
    };
    let (deployed, said) = deploy("wrong");
    assert!(!deployed && said.contains("401"), "{said}");
    let (deployed, said) = deploy(&secret);
    assert!(deployed, "{said}");
    assert_eq!(curl(&format!("{}/hello", server.url), &cert, &[]).stdout, b"from production");
    server.stop();

    // Again, and there is nothing to make.
    let files = || [&cert, &key, &admin_key].map(|path| fs::read(path).unwrap());
    let before = files();
    let server = Running::start(script(&data, &["--yes", "--port", "0"]));
    assert_eq!(curl(&format!("{}/hello", server.url), &cert, &[]).stdout, b"from production");
    assert!(server.said.contains("certificate: ") && !server.said.contains("made "), "{}", server.said);
    server.stop();
    assert_eq!(files(), before);
    // Nothing is left of the making.
    assert!(
        fs::read_dir(&data).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with(".pair"))
    );
}

#[test]
fn what_is_there_is_respected_and_half_of_it_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    fs::write(data.join("server.crt"), "theirs").unwrap();
    let said = refusal(script(data, &["--yes", "--port", "0"]));
    assert!(said.contains("only one of") && !data.join("server.key").exists(), "{said}");
    fs::write(data.join("server.key"), "theirs").unwrap();
    fs::set_permissions(data.join("server.key"), PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(data.join("admin.key"), "chosen-by-its-owner\n").unwrap();
    // A pair that can't be served is the server's to explain; open keys are told of.
    let said = refusal(script(data, &["--yes", "--port", "0"]));
    assert!(said.contains("no PEM certificate") && said.contains("chmod 600"), "{said}");
    for (name, content) in [("server.crt", "theirs"), ("server.key", "theirs"), ("admin.key", "chosen-by-its-owner\n")]
    {
        assert_eq!(fs::read_to_string(data.join(name)).unwrap(), content);
    }
    fs::write(data.join("admin.key"), "").unwrap();
    assert!(refusal(script(data, &["--yes", "--port", "0"])).contains("admin.key is empty"));

    // Named elsewhere, the pair is left to the server.
    let other = tempfile::tempdir().unwrap();
    let said = refusal(script(other.path(), &["--tls-cert", "a.pem", "--tls-key", "b.pem", "--port", "0"]));
    assert!(said.contains("--tls-cert") && said.contains("a.pem: No such file"), "{said}");
    assert!(!other.path().join("server.crt").exists());
    fs::write(
        other.path().join("cweb.toml"),
        "tls_cert = \"c.pem\"\ntls_key = \"d.pem\"\nadmin_key = \"chosen-by-its-owner\"\n",
    )
    .unwrap();
    fs::remove_file(other.path().join("admin.key")).unwrap();
    let said = refusal(script(other.path(), &["--yes", "--port", "0"]));
    assert!(said.contains("c.pem: No such file") && !other.path().join("admin.key").exists(), "{said}");
}

#[test]
fn the_service_is_as_it_was_checked_under_systemd() {
    let dir = root().join("scripts/systemd");
    let [service, socket] = ["cweb.service", "cweb.socket"].map(|name| fs::read_to_string(dir.join(name)).unwrap());
    let program = "/usr/local/bin/cweb";
    for line in [
        // Ready and alive, as the server tells it.
        "Type=notify",
        "WatchdogSec=30",
        // systemd would make the directory 755.
        "StateDirectoryMode=0700",
        // A module's process that takes all memory would end the service.
        "OOMPolicy=continue",
        // Five failures in ten seconds would close the socket for good, and a start by hand would be one without it.
        "StartLimitIntervalSec=0",
        "RestartSec=1",
        "Wants=cweb.socket",
        "After=network.target cweb.socket",
        &format!("ExecStart={program} serve --production --data-dir /var/lib/cweb"),
    ] {
        assert!(service.lines().any(|known| known == line), "{line}");
    }
    assert!(socket.contains("\nListenStream=8080\n") && socket.contains("\nWantedBy=sockets.target\n"), "{socket}");
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for line in [
        &format!("sudo install target/release/cweb {program}"),
        "sudo cp scripts/systemd/cweb.service scripts/systemd/cweb.socket /etc/systemd/system/",
        "sudo systemctl enable --now cweb.socket cweb.service",
    ] {
        assert!(readme.lines().any(|known| known == line), "{line}");
    }
}

#[test]
fn the_scripts_are_clean() {
    let scripts = [
        "production.sh",
        "scripts/run",
        "scripts/test",
        "scripts/check",
        "scripts/cweb",
        "scripts/packages.sh",
        "scripts/vm-check",
        "scripts/autobahn",
    ];
    let output = Command::new("shellcheck").arg("-x").args(scripts).current_dir(root()).output();
    let output = output.expect("no shellcheck: apt-get install shellcheck");
    assert!(output.status.success(), "{}", text(&output));
}
