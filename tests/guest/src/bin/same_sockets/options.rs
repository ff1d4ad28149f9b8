//! Options of sockets in use and of new ones.

use belljar_guest_tests::same::Random;

use crate::State;

/// Options of `SOL_SOCKET`, but those whose values are the kernel's or the machine's own affair.
const SOCKET: &[i32] = &[
    libc::SO_DEBUG,
    libc::SO_REUSEADDR,
    libc::SO_TYPE,
    libc::SO_ERROR,
    libc::SO_DONTROUTE,
    libc::SO_BROADCAST,
    libc::SO_KEEPALIVE,
    libc::SO_OOBINLINE,
    libc::SO_PRIORITY,
    libc::SO_LINGER,
    libc::SO_REUSEPORT,
    libc::SO_PASSCRED,
    libc::SO_PASSCRED,
    libc::SO_PEERCRED,
    libc::SO_RCVLOWAT,
    libc::SO_SNDLOWAT,
    libc::SO_BINDTODEVICE,
    libc::SO_TIMESTAMP,
    libc::SO_ACCEPTCONN,
    libc::SO_PASSSEC,
    libc::SO_TIMESTAMPNS,
    libc::SO_MARK,
    libc::SO_PROTOCOL,
    libc::SO_DOMAIN,
    libc::SO_RXQ_OVFL,
    libc::SO_PEEK_OFF,
    libc::SO_LOCK_FILTER,
    200,
];
const IP: &[i32] = &[
    libc::IP_TOS,
    libc::IP_TTL,
    libc::IP_PKTINFO,
    libc::IP_MTU_DISCOVER,
    libc::IP_RECVERR,
    libc::IP_RECVTTL,
    libc::IP_RECVTOS,
    libc::IP_FREEBIND,
    libc::IP_BIND_ADDRESS_NO_PORT,
];
const TCP: &[i32] = &[
    libc::TCP_NODELAY,
    libc::TCP_CORK,
    libc::TCP_KEEPIDLE,
    libc::TCP_KEEPINTVL,
    libc::TCP_KEEPCNT,
    libc::TCP_SYNCNT,
    libc::TCP_DEFER_ACCEPT,
    libc::TCP_USER_TIMEOUT,
    200,
];

impl State {
    /// An option of what is in a slot.
    pub fn option(&mut self, random: &mut Random) {
        let slot = Self::slot(random);
        let fd = self.slots[slot];
        if random.one_in(2) {
            let option = random.pick(SOCKET);
            self.get_option(fd, libc::SOL_SOCKET, option, 64);
            return;
        }
        let option = random.pick(&[libc::SO_PASSCRED, libc::SO_PASSCRED, libc::SO_PEEK_OFF]);
        let value = random.pick(&[0, 1, -1]);
        self.set_option(fd, libc::SOL_SOCKET, option, value, 4);
    }

    /// Options of a new socket.
    pub fn fresh_options(&mut self, random: &mut Random) {
        let (family, kind) = random.pick(&[(1, 1), (1, 2), (1, 5), (2, 1), (2, 2)]);
        // SAFETY: a plain call.
        let fd = unsafe { libc::socket(family, kind | libc::SOCK_NONBLOCK, 0) };
        self.trace.call(&format!("fresh {family} {kind}"), fd.min(0));
        for _ in 0..8 {
            let (level, options) = random.pick(&[
                (libc::SOL_SOCKET, SOCKET),
                (libc::SOL_SOCKET, SOCKET),
                (libc::IPPROTO_IP, IP),
                (libc::IPPROTO_TCP, TCP),
            ]);
            let option = random.pick(options);
            let value = random.pick(&[0, 1, 1, 2, 6, 100, 1000, -1, 0x7fff_ffff]);
            let len =
                if level == libc::SOL_SOCKET { random.pick(&[4, 4, 4, 4, 16, 8, 1, 0]) } else { 4 };
            self.set_option(fd, level, option, value, len);
            let room = if level == libc::SOL_SOCKET {
                random.pick(&[64, 64, 64, 4, 1, 0, -1])
            } else {
                random.pick(&[64, 4])
            };
            self.get_option(fd, level, option, room);
        }
        // SAFETY: ours.
        unsafe { libc::close(fd) };
    }

    fn set_option(&mut self, fd: i32, level: i32, option: i32, value: i32, len: u32) {
        let words = [value, 0, value, 0];
        // SAFETY: there are 16 bytes, and no length is longer.
        let result = unsafe { libc::setsockopt(fd, level, option, words.as_ptr().cast(), len) };
        self.trace.call(&format!("  set {level} {option} {value} {len}"), result);
    }

    fn get_option(&mut self, fd: i32, level: i32, option: i32, room: i32) {
        let mut bytes = [0x55_u8; 64];
        let mut len = room as u32;
        // SAFETY: there is room, and a wrong length is noticed.
        let result =
            unsafe { libc::getsockopt(fd, level, option, bytes.as_mut_ptr().cast(), &raw mut len) };
        let mut shown = bytes[..(len as usize).min(64)].to_vec();
        if option == libc::SO_PEERCRED && level == libc::SOL_SOCKET && shown.len() >= 4 {
            let me = shown[..4] == std::process::id().to_ne_bytes();
            shown[..4].fill(u8::from(me));
        }
        let shown = if result < 0 { Vec::new() } else { shown };
        self.trace.call(&format!("  get {level} {option} {room} {len} {shown:?}"), result);
    }
}
