//! The guest's network through the command line: cards, addresses, connections out and in.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use belljar_tests::guest::Guest;
use belljar_tests::sandbox::eventually;

#[test]
fn a_guest_without_net_has_no_card() {
    let done = Guest::new().sh("ls /sys/class/net; ip -o link | cut -d: -f2");
    assert_eq!((done.code, &*done.stdout), (0, "lo\n lo\n"), "{done:?}");
}

#[test]
fn a_network_that_cannot_be_had_is_refused_in_one_line() {
    let guest = Guest::new();
    for (net, why) in [
        ("bridge=br0", "write user or tap=NAME"),
        ("user,mac=01:00:00:00:00:00", "not the address of one card"),
        ("tap=a/b", "cannot be a network interface"),
    ] {
        let done = guest.run(&["run", "--net", net, "shell", "--", "true"], "");
        assert_eq!(done.code, 125, "{done:?}");
        assert!(done.stderr.contains(why), "{done:?}");
    }
    guest.assert_clean();
}

/// A tap of this host, if this process may make one. The kernel keeps it until it is deleted.
struct Tap(String);

impl Tap {
    /// `address` is the host's on it.
    fn make(address: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bj{}n{number}", std::process::id());
        if let Err(error) = make_tap(&name) {
            eprintln!("left out: this process may not make a tap: {error}");
            return None;
        }
        let tap = Self(name);
        let up =
            ip(&["address", "add", address, "dev", &tap.0]) && ip(&["link", "set", &tap.0, "up"]);
        assert!(up, "the tap {} is set up", tap.0);
        Some(tap)
    }

    /// Takes it away from whoever uses it.
    fn delete(&self) -> bool {
        ip(&["link", "delete", &self.0])
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.delete();
    }
}

/// Makes a persistent tap (Documentation/networking/tuntap.rst).
fn make_tap(name: &str) -> std::io::Result<()> {
    let tun: File = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // struct ifreq: a name of 16 bytes, then the flags.
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the request is as long as the call reads and writes.
    let made = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, request.as_mut_ptr()) };
    // SAFETY: takes a number.
    let kept =
        made == 0 && unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST as _, 1) } == 0;
    if kept { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

#[test]
fn a_tap_carries_connections_to_the_guest() {
    // Addresses for documentation (RFC 5737), which no network has.
    let Some(tap) = Tap::make("203.0.113.1/24") else { return };
    let guest = Guest::new();
    let script = "echo ready; nc -ll -p 7 -e cat";
    let net = format!("tap={}", tap.0);
    let args = ["run", "--detach", "--name", "t", "--net", &net];
    let append = ["--append", "ip=203.0.113.2::203.0.113.1:255.255.255.0"];
    let run = ["shell", "--", "sh", "-c", script];
    let done = guest.run(&[&args[..], &append, &run].concat(), "");
    assert_eq!(done.code, 0, "{done:?}");

    // Before anybody listens, the guest says so.
    let mut stream = None;
    eventually("the guest listens", || {
        stream = std::net::TcpStream::connect("203.0.113.2:7").ok();
        stream.is_some()
    });
    let mut stream = stream.unwrap();
    let sent = b"segments\n".repeat(20_000);
    let mut writer = stream.try_clone().unwrap();
    let to_send = sent.clone();
    let writes = thread::spawn(move || writer.write_all(&to_send).unwrap());
    let mut came = vec![0; sent.len()];
    stream.read_exact(&mut came).unwrap();
    assert!(came == sent);
    writes.join().unwrap();

    let busy = guest.run(&["run", "--net", &net, "shell", "--", "true"], "");
    assert_eq!((busy.code, busy.stderr.lines().count()), (125, 1), "{busy:?}");
    guest.run(&["kill", "t"], "");
    guest.assert_clean();
}

/// The device is our own on KVM.
mod kvm {
    use super::*;
    use std::io::{BufRead, BufReader};

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn a_tap_that_goes_away_is_told_in_one_line_and_the_machine_goes_on() {
        let Some(tap) = Tap::make("198.51.100.1/24") else { return };
        let guest = Guest::new();
        let script =
            "echo ready; while sleep 0.1; do ping -c 1 -W 1 198.51.100.1; done >/dev/null 2>&1";
        let net = format!("tap={}", tap.0);
        let append = "ip=198.51.100.2::198.51.100.1:255.255.255.0";
        let args = ["run", "--name", "t", "--net", &net, "--append", append, "shell", "--"];
        let mut command = guest.command(&[&args[..], &["sh", "-c", script]].concat());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        assert!(tap.delete());
        let mut said = BufReader::new(child.stderr.take().unwrap());
        line.clear();
        said.read_line(&mut line).unwrap();
        assert!(line.contains(&tap.0), "{line}");
        let shells = || guest.rows(&["ps", "t"]).iter().filter(|row| row["comm"] == "sh").count();
        eventually("the machine goes on", || shells() > 0);
        guest.run(&["kill", "t"], "");
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(!rest.contains(&tap.0), "{rest}");
        child.wait().unwrap();
        guest.assert_clean();
    }

    #[test]
    #[ignore = "needs KVM: cargo xtask test --only kvm"]
    fn a_network_of_qemu_is_refused_with_the_mend() {
        let done = Guest::new().run(&["run", "--net", "user", "shell", "--", "true"], "");
        assert_eq!((done.code, done.stderr.lines().count()), (125, 1), "{done:?}");
        assert!(done.stderr.contains("tap="), "{done:?}");
    }
}

/// A network that QEMU makes up, with the host at 10.0.2.2.
mod qemu {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use belljar_tests::sandbox::Done;

    /// Runs a script in the shell image with a network of QEMU's.
    fn on_user_network(script: &str) -> Done {
        Guest::new().run(&["run", "--net", "user", "shell", "--", "sh", "-c", script], "")
    }

    /// A listener of this host that serves `count` connections, one after the other, and its port.
    fn serve(
        count: usize,
        each: impl Fn(&mut dyn BufRead, &mut dyn Write) + Send + 'static,
    ) -> (u16, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = thread::spawn(move || {
            for _ in 0..count {
                let (stream, _) = listener.accept().unwrap();
                each(&mut BufReader::new(stream.try_clone().unwrap()), &mut &stream);
            }
        });
        (port, served)
    }

    /// Answers one request with `content`, as HTTP/1.0 has it.
    fn serve_content(content: Vec<u8>) -> (u16, JoinHandle<()>) {
        serve(1, move |from, to| {
            let mut line = String::new();
            while from.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            write!(to, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", content.len()).unwrap();
            to.write_all(&content).unwrap();
        })
    }

    #[test]
    fn a_card_stands_under_its_device_in_sysfs() {
        let script =
            "readlink /sys/class/net/eth0 | sed 's/[0-9a-f]*.virtio_mmio/T/; s/virtio[0-9]*/V/'
            cat /sys/class/net/eth0/device/device; ls /sys/class/net/eth0/device/net
            cat /sys/devices/platform/*.virtio_mmio/virtio*/net/eth0/address
            readlink /sys/class/net/lo; ls /sys/devices/virtual/net
            [ -e /sys/class/net/lo/device ] || echo no device";
        let done = on_user_network(script);
        let expected = "../../devices/platform/T/V/net/eth0\n0x0001\neth0\n52:54:00:12:34:56\n\
                        ../../devices/virtual/net/lo\nlo\nno device\n";
        assert_eq!(done.stdout, expected, "{done:?}");
        assert!(done.stderr.is_empty(), "{done:?}");
    }

    #[test]
    fn a_user_network_gives_the_guest_its_address_and_name_server() {
        let script = "ip -o -4 addr show eth0 | tr -s ' ' | cut -d ' ' -f 2-4; ip route | grep default
            cat /proc/net/pnp; ip link show eth0 | grep -o 'UP,LOWER_UP\\|mtu [0-9]*\\|ether [0-9a-f:]*'";
        let done = on_user_network(script);
        let expected = "eth0 inet 10.0.2.15/24\ndefault via 10.0.2.2 dev eth0 \n\
                        #MANUAL\nnameserver 10.0.2.3\n\
                        UP,LOWER_UP\nmtu 1500\nether 52:54:00:12:34:56\n";
        assert_eq!((done.code, &*done.stdout), (0, expected), "{done:?}");
    }

    #[test]
    fn a_connection_of_the_guest_carries_bytes_both_ways() {
        let (port, served) = serve(1, |from, to| {
            let mut line = String::new();
            from.read_line(&mut line).unwrap();
            to.write_all(format!("you said {line}").as_bytes()).unwrap();
        });
        let done = on_user_network(&format!("echo hello | nc 10.0.2.2 {port}"));
        assert_eq!((done.code, &*done.stdout), (0, "you said hello\n"), "{done:?}");
        served.join().unwrap();
    }

    #[test]
    fn a_download_of_megabytes_arrives_whole_and_is_counted() {
        let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 1000 + i % 253) as u8).collect();
        let (port, served) = serve_content(content.clone());
        let script = format!(
            "wget -q -O - http://10.0.2.2:{port}/ | tee /tmp/x | wc -c; cat /tmp/x > /dev/vda
             awk '/eth0/ {{ print ($2 > 3000000), ($3 > 2000), ($10 > 0) }}' /proc/net/dev"
        );
        let guest = Guest::new();
        let disk = guest.path("came");
        std::fs::write(&disk, vec![0; 3_000_320]).unwrap();
        let args = ["run", "--net", "user", "--disk", disk.to_str().unwrap()];
        let done = guest.run(&[&args[..], &["shell", "--", "sh", "-c", &script]].concat(), "");
        assert_eq!((done.code, &*done.stdout), (0, "3000000\n1 1 1\n"), "{done:?}");
        assert!(std::fs::read(&disk).unwrap()[..3_000_000] == content);
        served.join().unwrap();
    }

    #[test]
    fn an_upload_of_megabytes_arrives_whole() {
        let (port, served) = serve(1, |from, _| {
            let mut came = vec![];
            from.read_to_end(&mut came).unwrap();
            assert!(came == b"upload\n".repeat(300_000), "{} bytes", came.len());
        });
        let done = on_user_network(&format!("yes upload | head -n 300000 | nc 10.0.2.2 {port}"));
        assert_eq!((done.code, &*done.stdout), (0, ""), "{done:?}");
        served.join().unwrap();
    }

    #[test]
    fn a_card_without_an_address_gets_one_by_dhcp() {
        let guest = Guest::new();
        let script = r#"
            printf '#!/bin/sh\n[ $1 = bound ] && echo $1 $interface $ip/$mask via $router\n' > /tmp/s
            chmod +x /tmp/s; ip link set eth0 up; udhcpc -q -n -i eth0 -s /tmp/s 2>/dev/null"#;
        let args =
            ["run", "--net", "user", "--append", "ip=off", "shell", "--", "sh", "-c", script];
        let done = guest.run(&args, "");
        let expected = "bound eth0 10.0.2.15/24 via 10.0.2.2\n";
        assert!(done.stdout.ends_with(expected), "{done:?}");
    }

    #[test]
    fn a_card_moves_to_another_network_namespace_and_comes_back_with_its_end() {
        let (port, served) = serve(1, |_, to| to.write_all(b"reached\n").unwrap());
        let script = format!(
            "mkfifo /tmp/go
             unshare -n sh -c 'read _ < /tmp/go; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0
                 ip route add default via 10.0.2.2; nc 10.0.2.2 {port} < /dev/null' &
             until [ $(readlink /proc/$!/ns/net) != $(readlink /proc/self/ns/net) ]; do sleep 0.1; done
             ip link set eth0 netns $!; ip -o link | cut -d: -f2; echo > /tmp/go; wait
             until ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done; echo back"
        );
        let done = on_user_network(&script);
        assert_eq!((done.code, &*done.stdout), (0, " lo\nreached\nback\n"), "{done:?}");
        served.join().unwrap();
    }

    #[test]
    fn a_restored_guest_has_a_link_again_if_it_is_given_a_network() {
        let guest = Guest::new();
        // However often the guest tries. It is there until it is ended: its console is read from outside.
        let (port, _) = serve(usize::MAX, |from, to| {
            let mut line = String::new();
            // A connection that the guest gives up is no answer.
            let _ = from.read_line(&mut line);
            let _ = to.write_all(format!("{line}\n").as_bytes());
        });
        let script = format!(
            "echo ready; until echo one | nc -w 5 10.0.2.2 {port}; do sleep 0.2; done
             until ! ip link show eth0 | grep -q LOWER_UP; do sleep 0.2; done; echo down
             until ip link show eth0 | grep -q LOWER_UP; do sleep 0.2; done
             until echo two | nc -w 5 10.0.2.2 {port}; do sleep 0.2; done
             while :; do sleep 60; done"
        );
        let args = ["run", "--detach", "--name", "t", "--net", "user"];
        let done = guest.run(&[&args[..], &["shell", "--", "sh", "-c", &script]].concat(), "");
        assert_eq!(done.code, 0, "{done:?}");
        guest.wait_until_prints("t", "one");
        let (saved, again) = (guest.path("saved"), guest.path("again"));
        let (saved, again) = (saved.to_str().unwrap(), again.to_str().unwrap());
        let done = guest.run(&["snapshot", "t", saved], "");
        assert_eq!(done.code, 0, "{done:?}");
        guest.run(&["kill", "t"], "");

        let done = guest.run(&["restore", "--detach", "--name", "alone", saved], "");
        assert!(
            done.code == 0 && done.stderr.contains("eth0 was on user and has no link"),
            "{done:?}"
        );
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
        guest.wait_until_prints("alone", "down");
        assert_eq!(guest.run(&["snapshot", "alone", again], "").code, 0);
        guest.run(&["kill", "alone"], "");

        let done =
            guest.run(&["restore", "--detach", "--name", "both", "--net", "user", again], "");
        assert_eq!((done.code, &*done.stderr), (0, ""), "{done:?}");
        guest.wait_until_prints("both", "two");
        guest.run(&["kill", "both"], "");
        guest.assert_clean();
    }
}
