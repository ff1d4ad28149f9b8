//! Rules over rtnetlink: `ip rule`. They say in which order the tables of routes are asked; there are those that
//! every namespace begins with (ip-rule(8)), and none can be added.

use super::message::{Answer, Request};
use super::route::kind;
use super::routes::RT_TABLE_LOCAL;
use crate::net::inet::route::RT_TABLE_MAIN;
use crate::net::inet::{AF_INET, AF_INET6};

/// Bytes of a `struct fib_rule_hdr`.
const RULE_HDR: usize = 12;
const PRIORITY: u16 = 6;
const SUPPRESS_PREFIXLEN: u16 = 14;
const TABLE: u16 = 15;
const PROTOCOL: u16 = 21;
/// `FR_ACT_TO_TBL`.
const TO_TABLE: u8 = 1;
/// `RTPROT_KERNEL`.
const RTPROT_KERNEL: u8 = 2;
/// `RT_TABLE_DEFAULT`.
const RT_TABLE_DEFAULT: u32 = 253;

/// The rules of a family: priority and table.
const RULES: &[(u32, &[(u32, u32)])] = &[
    (AF_INET, &[(0, RT_TABLE_LOCAL), (32766, RT_TABLE_MAIN), (32767, RT_TABLE_DEFAULT)]),
    (AF_INET6, &[(0, RT_TABLE_LOCAL), (32766, RT_TABLE_MAIN)]),
];

/// `RTM_GETRULE`: all rules, of one family if the request names one.
pub fn get(request: &Request<'_>, answer: &mut Answer) {
    let family = u32::from(request.payload().first().copied().unwrap_or(0));
    for &(of, rules) in RULES.iter().filter(|(of, _)| family == 0 || family == *of) {
        for &(priority, table) in rules {
            let mut fixed = [0; RULE_HDR];
            (fixed[0], fixed[4], fixed[7]) = (of as u8, table as u8, TO_TABLE);
            answer.begin(kind::NEWRULE, &fixed);
            answer.number(TABLE, table);
            // Routes of any length count.
            answer.number(SUPPRESS_PREFIXLEN, u32::MAX);
            answer.attribute(PROTOCOL, &[RTPROT_KERNEL]);
            if priority != 0 {
                answer.number(PRIORITY, priority);
            }
            answer.end();
        }
    }
}
