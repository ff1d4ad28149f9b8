//! /proc/PID/net: the sockets, interfaces and routes of the task's network namespace.

use super::{Entry, Kind, Subject, entry};
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::NetNs;
use crate::net::inet::{AF_INET, AF_INET6, ipconfig, show};
use crate::net::unix;
use crate::procfs::text::Text;

fn net(subject: &Subject) -> Result<Ref<NetNs>> {
    let proxy = subject.task.nsproxy.share().ok_or(Errno::EINVAL)?;
    Ok(proxy.net.clone())
}

macro_rules! files {
    ($($name:literal $show:expr;)*) => {
        /// The directory.
        pub(super) static ENTRIES: &[Entry] = &[
            $({
                fn text(subject: &Subject, out: &mut Text) -> Result<()> {
                    let show: fn(&NetNs, &mut Text) -> Result<()> = $show;
                    show(&*net(subject)?, out)
                }
                entry($name, 0o444, Kind::Text(text))
            }),*
        ];
    };
}

files! {
    "arp" |net, out| show::arp(net, out);
    "dev" |net, out| show::dev(net, out);
    "if_inet6" |net, out| show::if_inet6(net, out);
    "packet" |net, out| show::packet(net, out);
    "pnp" |_, out| ipconfig::show(out);
    "raw" |net, out| show::raw(net, AF_INET, out);
    "raw6" |net, out| show::raw(net, AF_INET6, out);
    "route" |net, out| show::route(net, out);
    "snmp" |net, out| show::snmp(net, out);
    "sockstat" |net, out| show::sockstat(net, out);
    "sockstat6" |net, out| show::sockstat6(net, out);
    "tcp" |net, out| show::tcp(net, AF_INET, out);
    "tcp6" |net, out| show::tcp(net, AF_INET6, out);
    "udp" |net, out| show::udp(net, AF_INET, out);
    "udp6" |net, out| show::udp(net, AF_INET6, out);
    "unix" |net, out| unix::show::show(net, out);
}
