//! `lock run` on a terminal: the command gets it, Ctrl-C reaches the command, and the shell has it afterwards.

use larder_testkit::Server;

use crate::support::screen::Screen;

#[test]
fn a_command_reads_from_the_terminal_and_the_shell_does_again_afterwards() {
    let server = Server::start();
    let script = "larder lock run job -- sh -c 'echo ready; read line < /dev/tty; echo \"inner $line\"'
        echo \"status $?\"; read line; echo \"outer $line\"";
    let mut screen = Screen::start(&server.url(), script);
    screen.until("ready");
    screen.type_in("one\n");
    screen.until("inner one");
    screen.until("status 0");
    screen.type_in("two\n");
    screen.until("outer two");
}

#[test]
fn ctrl_c_reaches_the_command_alone_and_ctrl_z_does_not_stop_it() {
    let server = Server::start();
    // No `sleep` in a loop: a shell that Ctrl-Z finds in vfork cannot stop, so larder would not learn of the stop.
    let script = "larder lock run job -- sh -c 'sleep 1000 & trap \"kill $!; echo cleaning; exit 9\" INT; echo ready; wait'
        echo \"status $?\"";
    let mut screen = Screen::start(&server.url(), script);
    screen.until("ready");
    screen.type_in("\x1a");
    screen.until("is not suspended: it goes on");
    screen.type_in("\x03");
    screen.until("cleaning");
    screen.until("status 9");
}
