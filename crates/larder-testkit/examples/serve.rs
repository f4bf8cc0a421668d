//! What `cargo xtask server` runs: a server in the foreground, until Ctrl-C.

use std::env;
use std::process::exit;
use std::thread;

use larder_testkit::{Cluster, Sentinel, Server};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Bound here: what is started lives until the process ends, and its watchdogs end it then.
    match words.as_slice() {
        [] => {
            let server = Server::builder().tcp().start();
            serve(&format!("{}\n{}", server.version(), server.url()));
        }
        ["--tls"] => {
            let server = Server::builder().tls().start();
            let authority = server.folder().join("ca.pem");
            serve(&format!(
                "{}\n{}\ncertificate authority: {}",
                server.version(),
                server.url(),
                authority.display()
            ));
        }
        ["--cluster"] => {
            let cluster = Cluster::start();
            serve(&cluster.url());
        }
        ["--sentinel"] => {
            let sentinel = Sentinel::start();
            serve(&sentinel.url());
        }
        _ => {
            eprintln!("usage: cargo xtask server [--tls | --cluster | --sentinel]");
            exit(2);
        }
    }
}

fn serve(what: &str) -> ! {
    println!("{what}\nCtrl-C ends it.");
    loop {
        thread::park();
    }
}
