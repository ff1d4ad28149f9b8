//! The rows of the tables. Words are added at a record's end only.

/// A row of a table.
pub trait Record: Default {
    /// The words of this version.
    const WORDS: usize;
    /// Sets word number `index`, if there is one.
    fn set(&mut self, index: usize, value: u64);
    /// Word number `index`; 0 if there is none.
    fn get(&self, index: usize) -> u64;
}

macro_rules! records {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident,)+ })+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$fdoc])* pub $field: u64,)+ }

        impl Record for $name {
            const WORDS: usize = [$(stringify!($field)),+].len();

            fn set(&mut self, index: usize, value: u64) {
                let fields: [&mut u64; Self::WORDS] = [$(&mut self.$field),+];
                if let Some(field) = fields.into_iter().nth(index) {
                    *field = value;
                }
            }

            fn get(&self, index: usize) -> u64 {
                [$(self.$field),+].get(index).copied().unwrap_or(0)
            }
        }
    )+ };
}

records! {
    /// The process as a whole. Fields named `*_bytes` are [`Bytes`](super::Bytes).
    Process {
        /// Its number, its parent's, its group's, its session's: in the initial namespace.
        pid,
        /// See `pid`.
        ppid,
        /// See `pid`.
        pgid,
        /// See `pid`.
        sid,
        /// 1 if it leads its session.
        session_leader,
        /// Signal for its parent when it ends.
        exit_signal,
        /// 1 if all its threads are stopped.
        stopped,
        /// File creation mask.
        umask,
        /// Path of its working directory.
        cwd_bytes,
        /// Path of its root directory.
        root_bytes,
        /// Path of its program.
        exe_bytes,
        /// Real user id; the others follow as credentials(7) names them.
        uid,
        /// Effective user id.
        euid,
        /// Saved user id.
        suid,
        /// File system user id.
        fsuid,
        /// Real group id.
        gid,
        /// Effective group id.
        egid,
        /// Saved group id.
        sgid,
        /// File system group id.
        fsgid,
        /// Inheritable capabilities.
        cap_inheritable,
        /// Permitted capabilities.
        cap_permitted,
        /// Effective capabilities.
        cap_effective,
        /// Bounding set.
        cap_bounding,
        /// Ambient capabilities.
        cap_ambient,
        /// securebits.
        securebits,
        /// 1 if execve(2) grants nothing.
        no_new_privs,
        /// Start of the heap.
        start_brk,
        /// End of the heap.
        brk,
        /// Mappings are placed below this.
        mmap_base,
        /// Start of the code; the others as in prctl(2) `PR_SET_MM`.
        start_code,
        /// End of the code.
        end_code,
        /// Start of the data.
        start_data,
        /// End of the data.
        end_data,
        /// Start of the stack.
        start_stack,
        /// Start of the arguments.
        arg_start,
        /// End of the arguments.
        arg_end,
        /// Start of the environment.
        env_start,
        /// End of the environment.
        env_end,
        /// Address of the code that returns from a signal handler.
        sigreturn,
        /// Bias of the OOM killer, as a signed number.
        oom_score_adj,
        /// 1 if it adopts orphans.
        subreaper,
        /// CLOCK_MONOTONIC when the core was made, in nanoseconds, as the process sees it; 0 if unknown.
        monotonic_ns,
        /// User time of its threads that have ended, in nanoseconds.
        dead_utime,
        /// System time of them.
        dead_stime,
        /// User time of its children that were waited for.
        children_utime,
        /// System time of them.
        children_stime,
    }
    /// A supplementary group.
    Group {
        /// Its id.
        gid,
    }
    /// A number of the process or of one of its threads.
    Id {
        /// 0 thread, 1 process, 2 process group, 3 session.
        kind,
        /// The thread, by its number in the initial namespace; for the others the process.
        of,
        /// Level of the namespace, 0 for the initial one.
        level,
        /// The number there.
        nr,
        /// Inode number of the namespace.
        ns,
    }
    /// A thread.
    Thread {
        /// Its number in the initial namespace.
        tid,
        /// Its name.
        comm_bytes,
        /// The system call that it is in, as a signed number; -1 for none.
        syscall,
        /// x0 as that call was made with.
        orig_x0,
        /// Blocked signals.
        blocked,
        /// 1 if `saved_mask` is to be restored once the call returns.
        has_saved_mask,
        /// See `has_saved_mask`.
        saved_mask,
        /// Alternate signal stack.
        altstack_sp,
        /// Its size.
        altstack_size,
        /// `SS_*`.
        altstack_flags,
        /// See set_tid_address(2).
        clear_child_tid,
        /// See set_robust_list(2).
        robust_list,
        /// Signal when its parent ends.
        pdeath_signal,
        /// `SCHED_*`.
        policy,
        /// Nice value, as a signed number.
        nice,
        /// Real-time priority.
        rt_priority,
        /// A bit for each CPU that it may run on.
        cpus_allowed,
        /// See personality(2).
        personality,
        /// How the call that it is in goes on ([`RESTART_NONE`](super::RESTART_NONE) and so on), for one that
        /// returned [`ERESTART_RESTARTBLOCK`](super::ERESTART_RESTARTBLOCK); the words that follow belong to it.
        restart_kind,
        /// The clock of its deadline: 0 CLOCK_MONOTONIC, 1 CLOCK_REALTIME.
        restart_clock,
        /// The deadline, in nanoseconds on that clock.
        restart_ns,
        /// Where the remaining time goes, or the futex.
        restart_addr,
        /// Value, flags and bit set of a wait for a futex.
        restart_value,
        /// See `restart_value`.
        restart_flags,
        /// See `restart_value`.
        restart_bitset,
        /// CPU time that it used, in nanoseconds.
        cpu_ns,
        /// How much of it was found to be user time.
        user_sampled,
        /// How much of it was found to be system time.
        system_sampled,
        /// User time as last shown: what is shown does not go back.
        utime,
        /// System time as last shown.
        stime,
        /// How its system calls are restricted: 0 not at all, 1 strictly, 2 by filters.
        seccomp_mode,
        /// [`Filter::id`] of its last filter; 0 for none.
        seccomp_filter,
        /// 1 if execve(2) grants it nothing, whatever [`Process::no_new_privs`] says of the first thread.
        no_new_privs,
    }
    /// A filter of system calls; the one before it comes earlier in the table.
    Filter {
        /// Which one; not 0.
        id,
        /// The one before it; 0 for none.
        prev,
        /// 1 if what it does is logged.
        log,
        /// 1 if only a fatal signal ended the wait for an answer.
        wait_killable,
        /// Its instructions, as `struct sock_filter`.
        program_bytes,
    }
    /// A range of the address space.
    Vma {
        /// First address.
        start,
        /// One past the last.
        end,
        /// `VM_*`.
        flags,
        /// Page of the file at `start`.
        pgoff,
        /// Device number of what is mapped, 0 for private anonymous memory.
        dev,
        /// Inode number of it.
        ino,
        /// Its path or name.
        path_bytes,
        /// Size of a regular file.
        size,
        /// BLAKE3 of a regular file's content.
        hash_bytes,
        /// [`Nameless::id`] of a file without a name, else 0.
        nameless,
    }
    /// A file without a name: a memfd, or one that was removed. Some core of the checkpoint has its pieces.
    Nameless {
        /// Which one: [`File::object`] of its open files. Not 0.
        id,
        /// What it shows as, without the slash before and `(deleted)` behind it.
        name_bytes,
        /// Bytes.
        size,
        /// Bytes of its pieces, in whichever cores they are; the rest is holes.
        held,
        /// `F_SEAL_*`.
        seals,
        /// 1 if the words that follow are known: not where it is mapped only.
        described,
        /// Permission bits.
        mode,
        /// Its owner.
        uid,
        /// Its group.
        gid,
    }
    /// A run of pages that another process of the same checkpoint may have too: equal `frame`s are one page.
    Frames {
        /// First address.
        start,
        /// Number of the frame of the first page.
        frame,
        /// Pages.
        pages,
        /// 1 if a write copies the page, 0 if all see it.
        cow,
    }
    /// A descriptor.
    Fd {
        /// Its number.
        fd,
        /// [`File::id`] of what it refers to.
        file,
        /// 1 if exec closes it.
        cloexec,
    }
    /// An open file description. Equal `id`s in cores of one checkpoint are the same one.
    File {
        /// Which one.
        id,
        /// A kind of open file, one of [`Carried`](crate::carried::Carried) unless a later version wrote it.
        kind,
        /// `O_*`, as fcntl(2) shows them.
        flags,
        /// Position.
        pos,
        /// Path.
        path_bytes,
        /// Device number of its file system.
        dev,
        /// Inode number.
        ino,
        /// File type and mode.
        mode,
        /// Size.
        size,
        /// The device that it is.
        rdev,
        /// What is behind it, for those that share it (both ends of a pipe, both sides of a pseudoterminal,
        /// a file without a name).
        object,
        /// Bytes in a pipe; for an eventfd nothing.
        content_bytes,
        /// The count of an eventfd; the slots of a pipe; the signals that a signalfd takes, as a set;
        /// the process of a pidfd; 1 for a terminal that was hung up since it was opened.
        value,
        /// 1 for an eventfd that is a semaphore.
        semaphore,
        /// BLAKE3 of a regular file's content.
        hash_bytes,
        /// Owner of a FIFO, which is made again where it is missing.
        uid,
        /// Its group.
        gid,
    }
    /// A signal disposition.
    SigAction {
        /// The signal.
        signo,
        /// `SIG_IGN` (1) or an address.
        handler,
        /// `SA_*`.
        flags,
        /// `sa_restorer`.
        restorer,
        /// Blocked while the handler runs.
        mask,
    }
    /// A pending signal.
    Pending {
        /// The thread; 0 for the process.
        tid,
        /// The signal.
        signo,
        /// `si_errno`.
        errno,
        /// `si_code`, as a signed number.
        code,
        /// The union in `siginfo_t`, as words; the others follow.
        field0,
        /// See `field0`.
        field1,
        /// See `field0`.
        field2,
        /// See `field0`.
        field3,
    }
    /// A child that has ended and was not waited for yet.
    Zombie {
        /// Its number, its group's, its session's: in the initial namespace.
        pid,
        /// See `pid`.
        pgid,
        /// See `pid`.
        sid,
        /// Its wait status.
        status,
        /// Signal for its parent.
        exit_signal,
        /// Its real user id.
        uid,
        /// Its real group id.
        gid,
        /// User time that it and its children used, in nanoseconds.
        utime,
        /// System time.
        stime,
        /// Its name.
        comm_bytes,
    }
    /// A controlling terminal.
    Terminal {
        /// Its device number.
        dev,
        /// Its foreground process group, in the initial namespace; 0 for none.
        pgrp,
        /// `c_iflag`; the others follow as termios(3) names them.
        iflag,
        /// `c_oflag`.
        oflag,
        /// `c_cflag`.
        cflag,
        /// `c_lflag`.
        lflag,
        /// `c_ispeed`.
        ispeed,
        /// `c_ospeed`.
        ospeed,
        /// `c_cc`.
        cc_bytes,
        /// [`Pty::id`] if it is a pseudoterminal, else 0.
        pty,
    }
    /// A pseudoterminal.
    Pty {
        /// Which one: [`File::object`] of its files.
        id,
        /// N of /dev/pts/N.
        index,
        /// Permission bits of that node.
        mode,
        /// Its owner.
        uid,
        /// Its group.
        gid,
        /// The session that it controls, in the initial namespace; 0 for none.
        session,
        /// Its foreground process group, likewise.
        pgrp,
        /// `c_iflag`; the others follow as termios(3) names them.
        iflag,
        /// `c_oflag`.
        oflag,
        /// `c_cflag`.
        cflag,
        /// `c_lflag`.
        lflag,
        /// `c_line`.
        line,
        /// `c_ispeed`.
        ispeed,
        /// `c_ospeed`.
        ospeed,
        /// `c_cc`.
        cc_bytes,
        /// Its size in characters; the others follow as tty_ioctl(2) names them.
        rows,
        /// `ws_col`.
        cols,
        /// `ws_xpixel`.
        xpixel,
        /// `ws_ypixel`.
        ypixel,
        /// What was received and not read.
        input_bytes,
        /// A byte for each of those: 1 where it ends a line.
        ends_bytes,
        /// How many of those are complete lines; the line being edited follows.
        complete,
        /// What waits to be echoed.
        echo_bytes,
        /// What it sent and the master has not read.
        output_bytes,
        /// The column where the cursor stands.
        column,
        /// The column where the line being edited began.
        canon_column,
        /// 1 if the next byte is taken as it is.
        literal_next,
        /// 1 if the erasure of a printing terminal is open.
        erasing,
        /// 1 if output is stopped.
        stopped,
        /// 1 in packet mode.
        packet_mode,
        /// What the master's next read tells of in packet mode: `TIOCPKT_*`.
        packet_status,
        /// 1 if the terminal side cannot be opened yet.
        locked,
        /// 1 if the terminal side was open and is no more.
        slave_closed,
        /// 1 if only the privileged may open it (`TIOCEXCL`).
        exclusive,
        /// Open files of the terminal side.
        opens,
    }
    /// A timer of the process.
    Timer {
        /// [`TIMER_POSIX`](super::TIMER_POSIX) and so on.
        what,
        /// Its number, if it was made by timer_create(2); [`File::id`] of a timerfd.
        id,
        /// What it counts: a clock's number as in clock_gettime(2), or [`CLOCK_PROCESS_USER`](super::CLOCK_PROCESS_USER).
        clock,
        /// The thread whose CPU time it counts, if it does that.
        clock_tid,
        /// The clock of its deadline, if it counts no CPU time: 0 CLOCK_MONOTONIC, 1 CLOCK_REALTIME.
        base,
        /// When it rings next, in nanoseconds on that clock, as the process sees it, or of CPU time; 0 if it
        /// does not.
        deadline,
        /// How long after that again, in nanoseconds; 0 for once.
        interval,
        /// Expirations that its last signal stood for, beyond the first; for a timerfd 1 if it has rung since it
        /// was read.
        overrun,
        /// The signal that it sends; 0 for none.
        signo,
        /// The signal's value.
        value,
        /// The thread that gets the signal; 0 for the process.
        notify_tid,
    }
    /// A file that an epoll set watches; those that are ready come first, in their order.
    Watch {
        /// [`File::id`] of the set.
        set,
        /// [`File::id`] of what is watched.
        file,
        /// The descriptor that it was added under.
        fd,
        /// `EPOLL*`, as they are now: one of a set that fired once (`EPOLLONESHOT`) has no events.
        events,
        /// The program's own word.
        data,
        /// 1 if it stands on the list of those that may be ready.
        ready,
        /// For a signalfd: the process whose signals are watched; 0 if that is gone.
        pid,
    }
    /// An advisory lock of a file.
    Lock {
        /// [`File::id`] of a file that it was taken through.
        file,
        /// [`LOCK_POSIX`](super::LOCK_POSIX) and so on.
        kind,
        /// 1 if it excludes everybody else.
        exclusive,
        /// First byte.
        start,
        /// Last byte; the highest number means the end, wherever that is.
        end,
    }
    /// A Unix socket. Sockets refer to each other by [`File::object`]; equal ones are the same socket.
    Socket {
        /// Which one.
        id,
        /// `SOCK_*`.
        kind,
        /// As getsockopt(2) `SO_PROTOCOL` shows it.
        protocol,
        /// Who made it.
        uid,
        /// 1 connected, 7 not, 10 listening.
        state,
        /// Bit 0: nothing more is received; bit 1: nothing more is sent.
        shutdown,
        /// The error that waits to be reported.
        error,
        /// Options that are on, as the kernel keeps them.
        flags,
        /// `SO_SNDBUF`, doubled, as the kernel keeps it; the others as socket(7) names them.
        sndbuf,
        /// `SO_RCVBUF`.
        rcvbuf,
        /// `SO_LINGER`, in seconds.
        linger,
        /// `SO_RCVLOWAT`.
        rcvlowat,
        /// `SO_PRIORITY`.
        priority,
        /// `SO_MARK`.
        mark,
        /// `SO_RCVTIMEO` in nanoseconds, 0 for none.
        rcvtimeo,
        /// `SO_SNDTIMEO`.
        sndtimeo,
        /// Connections or messages that may wait, less one.
        backlog,
        /// The other end, or where it sends to; 0 for none.
        peer,
        /// 1 if the other end is closed.
        peer_gone,
        /// The listener at which it waits to be accepted; 0 if it does not.
        listener,
        /// 1 if it has a name of its own.
        bound,
        /// Its name or, for a connection, its listener's, as a `struct sockaddr_un`.
        name_bytes,
        /// Mode of the inode of a name that is a path.
        mode,
        /// Owner of that inode.
        name_uid,
        /// Group of it.
        name_gid,
        /// Who was at the other end (`SO_PEERCRED`): the process, 0 for nobody.
        cred_pid,
        /// Its user.
        cred_uid,
        /// Its group.
        cred_gid,
    }
    /// Bytes queued at a Unix socket, as they were sent; the oldest come first.
    Message {
        /// [`Socket::id`] of where they are.
        socket,
        /// [`Socket::id`] of who sent them; 0 if that is closed.
        sender,
        /// The bytes that were not read yet.
        data_bytes,
        /// The process that sent them, if that was noted (`SCM_CREDENTIALS`); 0 if not.
        cred_pid,
        /// Its user.
        cred_uid,
        /// Its group.
        cred_gid,
    }
    /// A resource limit.
    Limit {
        /// `RLIMIT_*`.
        resource,
        /// What is enforced.
        soft,
        /// How far it may be raised.
        hard,
    }
}
