//! The newcomer's first command, as root and as an ordinary user.

use tests::command::{command, run_with};
use tests::paths;

#[test]
fn the_demo_ends_with_a_job_that_had_its_secret() {
    run(command(paths::sources().join("tests/demo.sh")));
}

#[test]
fn the_demo_needs_no_rights() {
    let mut ordinary = command("setpriv");
    ordinary.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    ordinary.arg(paths::sources().join("tests/demo.sh"));
    run(ordinary);
}

fn run(mut demo: std::process::Command) {
    let output = run_with(
        demo.env("DEMO_BINS", paths::binaries()).env("DEMO_STOP", "1").env("DEMO_PORT", free_port().to_string()),
        b"",
    );
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("The job ended: succeeded."), "{}\n{said}", output.status);
}

/// Where the script begins to look: not where another test's instance just might be.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
    listener.local_addr().expect("a bound socket has an address").port()
}
