//! Each mistake is one line on stderr that names the thing and the mend, with exit status 125.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use belljar_tests::sandbox::Sandbox;
use belljar_tests::stub;

#[test]
fn missing_image_lists_the_images() {
    let sandbox = Sandbox::new();
    sandbox.run(&["run", "nope"]).assert_failed(&["\"nope\"", "small"]);
    sandbox.run(&["run", "./nope/nope"]).assert_failed(&["./nope/nope"]);
}

#[test]
fn missing_kernel_names_the_build() {
    let sandbox = Sandbox::new();
    fs::remove_file(sandbox.path("home/Image")).unwrap();
    sandbox.run(&["run", "small"]).assert_failed(&["no kernel at", "cargo xtask build"]);
}

#[test]
fn a_kernel_that_is_none_is_refused() {
    let sandbox = Sandbox::new();
    let done = sandbox.run(&["run", "--kernel", "./prog", "small"]);
    done.assert_failed(&["./prog is not an arm64 kernel Image"]);
}

#[test]
fn program_for_another_machine_is_named_with_its_machine() {
    let sandbox = Sandbox::new();
    stub::write_program(&sandbox.path("prog"), stub::X86_64);
    sandbox.run(&["run", "./prog"]).assert_failed(&["./prog", "x86-64", "aarch64"]);
}

#[test]
fn truncated_program_is_refused() {
    let sandbox = Sandbox::new();
    // A program header for 4096 bytes that are not there.
    let mut program = fs::read(sandbox.path("prog")).unwrap();
    program.resize(64 + 56, 0);
    (program[32], program[54], program[56], program[64]) = (64, 56, 1, 1);
    program[64 + 33] = 0x10;
    fs::write(sandbox.path("prog"), program).unwrap();
    sandbox.run(&["run", "./prog"]).assert_failed(&["./prog", "cut short"]);
}

#[test]
fn truncated_cpio_is_refused() {
    let sandbox = Sandbox::new();
    let whole = fs::read(sandbox.path("home/images/small/rootfs.cpio")).unwrap();
    for len in [0, 50, 120, 300] {
        fs::write(sandbox.path("cut.cpio"), &whole[..len]).unwrap();
        sandbox.run(&["run", "./cut.cpio"]).assert_failed(&["cut.cpio", "cut short"]);
    }
}

#[test]
fn folder_without_init_is_refused() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.run(&["run", "./empty"]).assert_failed(&["empty", "no init", "/init"]);
}

#[test]
fn missing_program_is_named() {
    let sandbox = Sandbox::new();
    sandbox.run(&["run", "small", "--", "vi"]).assert_failed(&["small", "\"vi\""]);
}

#[test]
fn too_little_memory_names_the_least() {
    let sandbox = Sandbox::new();
    sandbox.run(&["run", "--memory", "4M", "small"]).assert_failed(&["4M", "16M"]);
    fs::write(sandbox.path("work/big"), vec![1; 40 << 20]).unwrap();
    let done = sandbox.run(&["run", "--memory", "32M", "./work", "--", "/bin/init"]);
    done.assert_failed(&["32M", "work", "give"]);
}

#[test]
fn wrong_usage_has_the_same_exit_status() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(&["run", "--nonsense"]).code, 125);
    assert_eq!(sandbox.run(&["nonsense"]).code, 125);
    assert_eq!(sandbox.run(&["--help"]).code, 0);
}

#[test]
fn unknown_and_impossible_names_are_refused() {
    let sandbox = Sandbox::new();
    for verb in ["ps", "pause", "unpause", "kill", "log", "wait"] {
        sandbox.run(&[verb, "nobody"]).assert_failed(&["nobody", "none is running"]);
    }
    sandbox.run(&["run", "--name", "../x", "small"]).assert_failed(&["../x"]);
    sandbox.assert_clean();
}

/// What concerns the child QEMU alone, and hosts where only that works.
mod qemu {
    use super::*;

    #[test]
    fn no_qemu_names_the_package() {
        let sandbox = Sandbox::new();
        let mut command = sandbox.command(&["run", "--backend", "qemu", "small"]);
        let output = command.env("PATH", sandbox.path("run")).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("qemu-system-aarch64 not found"), "{text}");
        assert!(text.contains("apt install qemu-system-arm"), "{text}");
        sandbox.assert_clean();
    }

    /// A program that poses as QEMU.
    fn fake_qemu(sandbox: &Sandbox, script: &str) -> String {
        let path = sandbox.path("qemu");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let output = sandbox
            .command(&["run", "--backend", "qemu", "small"])
            .env("BELLJAR_QEMU", &path)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(125));
        sandbox.assert_clean();
        String::from_utf8(output.stderr).unwrap()
    }

    #[test]
    fn old_qemu_that_does_not_know_our_options_is_named_with_its_version() {
        let script = r#"[ "$1" = --version ] && echo "QEMU emulator version 6.1.0" || exit 1"#;
        let text = fake_qemu(&Sandbox::new(), script);
        assert!(text.contains("is QEMU 6.1: 7.2 or later is needed"), "{text}");
    }

    #[test]
    fn old_qemu_that_greets_is_refused_too() {
        let script = r#"echo '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 7},
    "package": ""}, "capabilities": []}}' | tr -d '\n' >&3; echo >&3
    read line <&3; echo '{"return": {}}' >&3; exec sleep 1000"#;
        let text = fake_qemu(&Sandbox::new(), script);
        assert!(text.contains("is QEMU 7.0: 7.2 or later is needed"), "{text}");
    }

    #[test]
    fn qemu_that_fails_is_quoted() {
        let text = fake_qemu(&Sandbox::new(), "echo it hurts >&2; exit 3");
        assert!(text.contains("ended with status 3: it hurts"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    #[cfg_attr(target_arch = "aarch64", ignore = "KVM may work on this host")]
    fn kvm_names_the_other_backend() {
        let sandbox = Sandbox::new();
        sandbox
            .run(&["run", "--backend", "kvm", "small"])
            .assert_failed(&["kvm", "--backend qemu"]);
    }
}
