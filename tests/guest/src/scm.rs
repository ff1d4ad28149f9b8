//! Messages between Unix sockets that carry descriptors and credentials (unix(7)).

use crate::ok;
use std::mem::zeroed;

/// A pair of Unix sockets.
pub fn pair(kind: i32) -> (i32, i32) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    ok(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) });
    (fds[0], fds[1])
}

/// Sends `data` with a control message of this type.
pub fn send_with(fd: i32, data: &[u8], kind: i32, payload: &[u8]) -> i64 {
    // SAFETY: every buffer is valid and long enough.
    unsafe {
        let mut control = [0_u64; 160];
        let mut iov =
            libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        let mut header: libc::msghdr = zeroed();
        header.msg_iov = &raw mut iov;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = libc::CMSG_SPACE(payload.len() as u32) as usize;
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        (*message).cmsg_level = libc::SOL_SOCKET;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = libc::CMSG_LEN(payload.len() as u32) as usize;
        libc::CMSG_DATA(message).copy_from(payload.as_ptr(), payload.len());
        libc::sendmsg(fd, &raw const header, 0) as i64
    }
}

/// Sends `data` with descriptors.
pub fn send_fds(fd: i32, data: &[u8], fds: &[i32]) -> i64 {
    let bytes: Vec<u8> = fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect();
    send_with(fd, data, libc::SCM_RIGHTS, &bytes)
}

/// What came.
#[derive(Default)]
pub struct Received {
    /// Bytes, or -1.
    pub n: i64,
    /// Descriptors.
    pub fds: Vec<i32>,
    /// Process, user and group of the sender.
    pub cred: Option<(i32, u32, u32)>,
    /// `msg_flags`.
    pub flags: i32,
}

/// Receives up to `room` bytes with `control_room` bytes of control messages.
pub fn receive(fd: i32, room: usize, control_room: usize, flags: i32) -> Received {
    let mut got = Received::default();
    let mut data = vec![0_u8; room];
    // SAFETY: every buffer is valid and long enough.
    unsafe {
        let mut control = [0_u64; 160];
        let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: room };
        let mut header: libc::msghdr = zeroed();
        header.msg_iov = &raw mut iov;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control_room;
        got.n = libc::recvmsg(fd, &raw mut header, flags) as i64;
        if got.n < 0 {
            return got;
        }
        got.flags = header.msg_flags;
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            let len = (*message).cmsg_len - libc::CMSG_LEN(0) as usize;
            let payload = libc::CMSG_DATA(message);
            if (*message).cmsg_type == libc::SCM_RIGHTS {
                for i in 0..len / 4 {
                    got.fds.push(payload.cast::<i32>().add(i).read_unaligned());
                }
            } else if (*message).cmsg_type == libc::SCM_CREDENTIALS {
                let cred = payload.cast::<libc::ucred>().read_unaligned();
                got.cred = Some((cred.pid, cred.uid, cred.gid));
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    got
}

/// Sends a byte and claims to be this process, user and group.
pub fn send_as(fd: i32, pid: i32, uid: u32, gid: u32) -> i64 {
    // SAFETY: plain numbers.
    let bytes: [u8; 12] = unsafe { std::mem::transmute(libc::ucred { pid, uid, gid }) };
    send_with(fd, b"x", libc::SCM_CREDENTIALS, &bytes)
}

/// Has each message that comes say who sent it (`SO_PASSCRED`).
pub fn pass_credentials(fd: i32) {
    let on = 1_i32;
    // SAFETY: an int.
    ok(unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_PASSCRED, (&raw const on).cast(), 4)
    });
}
