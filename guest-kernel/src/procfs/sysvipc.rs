//! /proc/sysvipc: the objects of System V IPC in the reader's namespace.

use super::text::Text;
use super::tree::{Entry, text};
use crate::errno::Result;
use crate::fs::SuperBlock;
use crate::ipc::sysv::Perm;
use crate::ns::Pid;
use crate::put;
use crate::task;

/// The files.
pub static ENTRIES: &[Entry] = &[text("msg", msg), text("sem", sem), text("shm", shm)];

/// A process's number as the reader sees it.
fn number_of(pid: Option<&Pid>) -> u32 {
    pid.map_or(0, |pid| pid.nr_in(task::current().thread_pid.own().ns()))
}

/// Owner and creator as the reader sees them.
fn owners(out: &mut Text, perm: &Perm) -> Result<()> {
    let user_ns = &task::current().cred().user_ns;
    let uid = |id| user_ns.uids().from_kernel_munged(id);
    let gid = |id| user_ns.gids().from_kernel_munged(id);
    let (cuid, cgid) = (uid(perm.cuid), gid(perm.cgid));
    put!(out, " {:>5} {:>5} {cuid:>5} {cgid:>5}", uid(perm.uid), gid(perm.gid))
}

/// Key, number and mode.
fn begin(out: &mut Text, perm: &Perm) -> Result<()> {
    put!(out, "{:>10} {:>10}  {:>4o}", perm.key, perm.id.0, perm.mode)
}

fn msg(_: &SuperBlock, out: &mut Text) -> Result<()> {
    out.bytes(b"       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n")?;
    for queue in task::current().nsproxy().ipc.msg.table.iter() {
        let q = queue.shown();
        begin(out, &q.perm)?;
        let (lspid, lrpid) = (number_of(q.lspid.as_deref()), number_of(q.lrpid.as_deref()));
        put!(out, "  {:>10} {:>10} {lspid:>5} {lrpid:>5}", q.cbytes, q.qnum)?;
        owners(out, &q.perm)?;
        put!(out, " {:>10} {:>10} {:>10}\n", q.stime, q.rtime, q.ctime)?;
    }
    Ok(())
}

fn sem(_: &SuperBlock, out: &mut Text) -> Result<()> {
    out.bytes(
        b"       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n",
    )?;
    for set in task::current().nsproxy().ipc.sem.table.iter() {
        let s = set.shown();
        begin(out, &s.perm)?;
        put!(out, " {:>10}", s.nsems)?;
        owners(out, &s.perm)?;
        put!(out, " {:>10} {:>10}\n", s.otime, s.ctime)?;
    }
    Ok(())
}

fn shm(_: &SuperBlock, out: &mut Text) -> Result<()> {
    out.bytes(b"       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n")?;
    for segment in task::current().nsproxy().ipc.shm.table.iter() {
        let s = segment.state();
        begin(out, &s.perm)?;
        let (cpid, lpid) = (number_of(Some(&s.cpid)), number_of(s.lpid.as_deref()));
        put!(out, " {:>21} {cpid:>5} {lpid:>5}  {:>5}", segment.size, s.nattch)?;
        owners(out, &s.perm)?;
        let rss = segment.resident_pages() * crate::addr::PAGE_SIZE as u64;
        put!(out, " {:>10} {:>10} {:>10} {rss:>21} {:>21}\n", s.atime, s.dtime, s.ctime, 0)?;
    }
    Ok(())
}
