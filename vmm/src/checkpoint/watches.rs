//! What an epoll set watches.

use std::collections::HashSet;

use belljar_abi::corenote::Watch;

use super::Result;
use crate::introspect::Object;

/// Adds what the set behind the open file `id` watches: first what is ready, in its order.
pub(super) fn add(id: u64, set: &Object<'_>, to: &mut Vec<Watch>) -> Result<()> {
    let mut linked = HashSet::new();
    for item in set.list("ready.list")? {
        let item = item?;
        linked.insert(item.addr());
        to.push(watch(id, &item, true)?);
    }
    for item in set.array("items")? {
        if !linked.contains(&item.addr()) {
            to.push(watch(id, &item, false)?);
        }
    }
    Ok(())
}

fn watch(set: u64, item: &Object<'_>, ready: bool) -> Result<Watch> {
    let file = item.ptr("file")?;
    let pid = match &file {
        Some(file) if file.enum_name("kind")? == "SignalFd" => watcher(file, item)?,
        _ => 0,
    };
    Ok(Watch {
        set,
        file: file.map_or(0, |file| file.addr()),
        fd: item.uint("fd")?,
        events: item.uint("events")?,
        data: item.uint("data")?,
        ready: u64::from(ready),
        pid,
    })
}

/// The process whose signals an item on a signalfd watches: the one that it waits on the queue of.
fn watcher(file: &Object<'_>, item: &Object<'_>) -> Result<u64> {
    let queue = item.uint("queue")?;
    let signals = Object::new(file.kernel(), "SignalFd", file.uint("detail")?)?;
    for signal in signals.array("polled")? {
        if signal.addr_of("signalfd_wait")? != queue {
            continue;
        }
        // The order of `SignalStruct.pids` is that of the kernel's `PidType`; 1 is the process.
        let Some(pid) = signal.element("pids", 1)? else { return Ok(0) };
        let numbers = pid.array("numbers")?;
        return Ok(numbers.first().map(|upid| upid.uint("nr")).transpose()?.unwrap_or(0));
    }
    Ok(0)
}
