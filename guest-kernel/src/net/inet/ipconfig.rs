//! The word `ip=` of the kernel command line: an interface that is set up before the first program runs
//! (Linux, Documentation/admin-guide/nfs/nfsroot.rst), and /proc/net/pnp, which tells its name servers.
//!
//! `ip=CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF:DNS0:DNS1`, any of which may be empty or left
//! out at the end. There is no client for DHCP here: that is what programs such as `udhcpc` are for.

use core::fmt::{self, Write};
use core::net::Ipv4Addr;

use smoltcp::wire::{IpAddress, IpCidr, Ipv4Cidr};

use super::ioctl::{broadcast_of, class_prefix};
use super::route::{RT_TABLE_MAIN, RTN_UNICAST, Route};
use super::stack::Stack;
use crate::errno::{Errno, Result};
use crate::kref::Ref;
use crate::net::dev::{IFF_UP, IfAddress, NetDevice};
use crate::ns::NsProxy;
use crate::ns::uts::uts_name;
use crate::sync::Once;

/// Name servers that a command line can name.
const NAME_SERVERS: usize = 2;
/// `RTPROT_BOOT`.
const RTPROT_BOOT: u8 = 3;

/// What a command line says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Config<'a> {
    client: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
    netmask: Option<Ipv4Addr>,
    hostname: &'a str,
    device: &'a str,
    name_servers: [Option<Ipv4Addr>; NAME_SERVERS],
}

/// Why a word cannot be obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal<'a> {
    /// Not an address.
    Address(&'a str),
    /// A way of asking others for the configuration.
    Protocol(&'a str),
    /// No interface of this name, or none at all.
    Device(&'a str),
    /// The stack would not have it.
    Stack(Errno),
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(text) => write!(f, "{text:?} is not an IPv4 address"),
            Self::Protocol(name) => {
                write!(f, "{name:?} is left to programs such as udhcpc: give addresses here")
            }
            Self::Device("") => f.write_str("there is no network device"),
            Self::Device(name) => write!(f, "there is no network device {name:?}"),
            Self::Stack(errno) => write!(f, "{errno}"),
        }
    }
}

impl<'a> Config<'a> {
    /// Reads the value of `ip=`; `None` if it asks for nothing.
    fn read(text: &'a str) -> core::result::Result<Option<Self>, Refusal<'a>> {
        let mut fields = text.split(':');
        let mut next = || fields.next().unwrap_or_default();
        let client = next();
        if !text.contains(':') && client.parse::<Ipv4Addr>().is_err() {
            return match client {
                "" | "off" | "none" => Ok(None),
                other => Err(Refusal::Protocol(other)),
            };
        }
        let mut config = Config { client: address(client)?, ..Self::default() };
        config.server = address(next())?;
        config.gateway = address(next())?;
        config.netmask = address(next())?;
        (config.hostname, config.device) = (next(), next());
        match next() {
            "" | "off" | "none" => {}
            other => return Err(Refusal::Protocol(other)),
        }
        for server in &mut config.name_servers {
            *server = address(next())?;
        }
        Ok(Some(config))
    }

    fn prefix(&self, client: Ipv4Addr) -> u8 {
        let mask = self.netmask.map(|mask| u32::from(mask).leading_ones() as u8);
        mask.unwrap_or_else(|| class_prefix(client))
    }
}

fn address(text: &str) -> core::result::Result<Option<Ipv4Addr>, Refusal<'_>> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| Refusal::Address(text)),
    }
}

/// Sets an interface up as `config` says.
fn apply(stack: &Stack, config: &Config<'_>) -> Result<()> {
    let device = match config.device {
        "" => stack.all_devices().into_iter().find(|device| !device.is_loopback()),
        name => stack.by_name(name.as_bytes()),
    };
    let device: Ref<NetDevice> = device.ok_or(Errno::ENODEV)?;
    // Loopback comes up too, as on Linux.
    if let Some(loopback) = stack.loopback() {
        stack.set_flags(&loopback, IFF_UP, IFF_UP);
    }
    stack.set_flags(&device, IFF_UP, IFF_UP);
    if let Some(client) = config.client {
        let cidr = Ipv4Cidr::new(client, config.prefix(client));
        let mut address = IfAddress::new(&device, IpCidr::Ipv4(cidr));
        address.broadcast = broadcast_of(&device, cidr);
        stack.add_address(&device, address)?;
    }
    if let Some(gateway) = config.gateway {
        let gateway: IpAddress = gateway.into();
        let route = Route {
            dst: IpCidr::Ipv4(Ipv4Cidr::new(Ipv4Addr::UNSPECIFIED, 0)),
            gateway: Some(gateway),
            device: Some(stack.link_to(gateway, device.index())?),
            prefsrc: None,
            metric: 0,
            protocol: RTPROT_BOOT,
            scope: 0,
            kind: RTN_UNICAST,
            table: RT_TABLE_MAIN,
        };
        stack.add_route(route, false)?;
    }
    Ok(())
}

/// What was obeyed.
static CONFIG: Once<Config<'static>> = Once::new();

/// Obeys the value of `ip=` in the initial namespaces; boot order calls it once, when the devices are known.
pub fn init(text: &'static str, namespaces: &NsProxy) {
    let config = match Config::read(text) {
        Ok(None) => return,
        Ok(Some(config)) => config,
        Err(refusal) => return crate::kwarn!("ip={text}: {refusal}"),
    };
    let done = apply(&namespaces.net.stack, &config).map_err(|errno| match errno {
        Errno::ENODEV => Refusal::Device(config.device),
        errno => Refusal::Stack(errno),
    });
    if let Err(refusal) = done {
        crate::kwarn!("ip={text}: {refusal}");
    }
    if !config.hostname.is_empty()
        && let Ok(name) = uts_name(config.hostname.as_bytes())
    {
        namespaces.uts.names.lock().nodename = name;
    }
    CONFIG.set(config);
}

/// /proc/net/pnp.
pub fn show(out: &mut dyn Write) -> Result<()> {
    let put = |result: fmt::Result| result.map_err(|_| Errno::ENOMEM);
    put(out.write_str("#MANUAL\n"))?;
    let Some(config) = CONFIG.try_get() else { return Ok(()) };
    for server in config.name_servers.iter().flatten() {
        put(writeln!(out, "nameserver {server}"))?;
    }
    if let Some(server) = config.server {
        put(writeln!(out, "bootserver {server}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_static_form_is_read_field_by_field() {
        let text = "10.0.2.15::10.0.2.2:255.255.255.0:jar:eth0:off:10.0.2.3";
        let config = Config::read(text).unwrap().unwrap();
        let v4 = |d| Some(Ipv4Addr::new(10, 0, 2, d));
        let expected = Config {
            client: v4(15),
            gateway: v4(2),
            netmask: Some(Ipv4Addr::new(255, 255, 255, 0)),
            hostname: "jar",
            device: "eth0",
            name_servers: [v4(3), None],
            ..Config::default()
        };
        assert_eq!(config, expected);
        assert_eq!(config.prefix(config.client.unwrap()), 24);
        let short = Config::read("192.168.7.2").unwrap().unwrap();
        assert_eq!(short.prefix(short.client.unwrap()), 24, "that of its class");
    }

    #[test]
    fn what_cannot_be_obeyed_is_named() {
        assert_eq!(Config::read("off"), Ok(None));
        assert_eq!(Config::read("dhcp"), Err(Refusal::Protocol("dhcp")));
        assert_eq!(Config::read("::::::dhcp"), Err(Refusal::Protocol("dhcp")));
        assert_eq!(Config::read("10.0.2.256:"), Err(Refusal::Address("10.0.2.256")));
    }
}
