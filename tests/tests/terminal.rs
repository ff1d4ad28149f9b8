//! The user's terminal: raw while the guest has it, as before on every way out.

use belljar_tests::guest::Guest;
use belljar_tests::sandbox::{Sandbox, eventually, state_of};
use belljar_tests::terminal::Terminal;
use rustix::process::{Pid, Signal, kill_process};

fn start(sandbox: &Sandbox) -> Terminal {
    let terminal = Terminal::start(sandbox.command(&["run", "--name", "t", "small"]));
    terminal.wait_for("stub");
    eventually("the terminal is raw", || terminal.is_raw());
    terminal
}

fn send(terminal: &Terminal, signal: Signal) {
    let pid = Pid::from_raw(terminal.child.id() as i32).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn keys_reach_the_guest_and_the_terminal_is_restored() {
    let sandbox = Sandbox::new();
    let mut terminal = start(&sandbox);
    // Ctrl-C is the guest's; the stub echoes it.
    terminal.type_keys("x\x03y");
    terminal.wait_for("x\u{3}y");
    terminal.type_keys("4");
    assert_eq!(terminal.exit_code(), 4);
    terminal.assert_restored();
    sandbox.assert_clean();
}

#[test]
fn ctrl_a_x_ends_the_vm() {
    let sandbox = Sandbox::new();
    let mut terminal = start(&sandbox);
    terminal.type_keys("\x01h");
    terminal.wait_for("end the VM");
    terminal.type_keys("\x01x");
    assert_eq!(terminal.exit_code(), 137);
    terminal.assert_restored();
    sandbox.assert_clean();
}

#[test]
fn the_terminal_is_restored_after_signals() {
    for (signal, code) in
        [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)]
    {
        let sandbox = Sandbox::new();
        let mut terminal = start(&sandbox);
        send(&terminal, signal);
        assert_eq!(terminal.exit_code(), code);
        terminal.assert_restored();
        sandbox.assert_clean();
    }
}

#[test]
fn the_terminal_is_restored_after_sigkill() {
    let sandbox = Sandbox::new();
    let mut terminal = start(&sandbox);
    send(&terminal, Signal::KILL);
    terminal.exit_code();
    terminal.assert_restored();
    sandbox.assert_clean();
}

#[test]
fn sigtstp_stops_with_a_sane_terminal_and_sigcont_goes_on() {
    let sandbox = Sandbox::new();
    let mut terminal = start(&sandbox);
    send(&terminal, Signal::TSTP);
    eventually("it is stopped", || state_of(terminal.child.id().into()) == Some('T'));
    terminal.assert_restored();
    send(&terminal, Signal::CONT);
    eventually("the terminal is raw again", || terminal.is_raw());
    terminal.type_keys("ab2");
    assert_eq!(terminal.exit_code(), 2);
    terminal.wait_for("ab");
    terminal.assert_restored();
}

#[test]
fn a_new_window_size_reaches_the_guest_with_its_signal() {
    let guest = Guest::new();
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done";
    let run = ["run", "--name", "t", "shell", "--", "sh", "-c", script];
    let mut terminal = Terminal::start(guest.command(&run));
    terminal.wait_for("ready");
    for (rows, columns) in [(41, 123), (12, 34)] {
        // Until the guest's kernel listens nobody tells it; then it asks for the size at hand.
        terminal.resize(rows, columns);
        terminal.wait_for(&format!("{rows} {columns}"));
    }
    terminal.type_keys("\x01x");
    assert_eq!(terminal.exit_code(), 137);
    terminal.assert_restored();
    guest.assert_clean();
}

/// What concerns the child QEMU alone.
mod qemu {
    use super::*;

    #[test]
    fn the_terminal_is_restored_when_the_machine_dies() {
        let sandbox = Sandbox::new();
        let mut terminal = start(&sandbox);
        let backend = sandbox.wait_for("t")["backend_pid"].as_i64().unwrap();
        kill_process(Pid::from_raw(backend as i32).unwrap(), Signal::KILL).unwrap();
        assert_eq!(terminal.exit_code(), 125);
        terminal.assert_restored();
        terminal.wait_for("VM t died");
    }
}
