//! `larder doctor --watch` and Ctrl-C.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use larder_testkit::{Direction, Proxy, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::larder;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_a_watch_with_the_exit_code_of_the_last_report() {
    let server = Server::builder().tcp().start();
    let watch = |url: &str, arguments: &[&str]| {
        let mut command = larder(&[("LARDER_URL", url)]);
        command.args(["doctor", "--watch", "20ms", "--format", "ndjson"]).args(arguments);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let interrupt = |child: &Child| {
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    };
    for (arguments, code) in [(&["--only", "L22"][..], 0), (&["--only", "L41", "--strict"], 1)] {
        let mut child = watch(&server.url(), arguments);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..2 {
            assert!(lines.next().unwrap().unwrap().contains("\"servers\""));
        }
        interrupt(&child);
        // A report that is being printed needs a reader.
        lines.for_each(drop);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{arguments:?}");
    }
    // Before the first report there is nothing to judge.
    let proxy = Proxy::start(server.addr().unwrap()).await;
    proxy.silence(Direction::Both);
    let mut child = watch(&proxy.url(), &["--only", "L22"]);
    proxy.until_connections(1).await;
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
