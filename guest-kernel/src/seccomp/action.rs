//! What a filter says about a system call: an action in the upper half of its word, data for it in the lower.

/// The part of a filter's word that is data (`SECCOMP_RET_DATA`).
pub const RET_DATA: u32 = 0xffff;

/// An action; the numbers are those of `SECCOMP_RET_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Action {
    /// The process ends, as by SIGSYS.
    KillProcess = 0x8000_0000,
    /// The thread ends.
    KillThread = 0,
    /// SIGSYS tells the program about the call, which is left out.
    Trap = 0x0003_0000,
    /// The call is left out and fails.
    Errno = 0x0005_0000,
    /// A process that listens decides.
    UserNotif = 0x7fc0_0000,
    /// The tracer decides.
    Trace = 0x7ff0_0000,
    /// The call is made, and logged.
    Log = 0x7ffc_0000,
    /// The call is made.
    Allow = 0x7fff_0000,
}

impl Action {
    /// All, the most restrictive first, as /proc/sys/kernel/seccomp names them.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::KillProcess, "kill_process"),
        (Self::KillThread, "kill_thread"),
        (Self::Trap, "trap"),
        (Self::Errno, "errno"),
        (Self::UserNotif, "user_notif"),
        (Self::Trace, "trace"),
        (Self::Log, "log"),
        (Self::Allow, "allow"),
    ];

    /// The action with exactly this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().map(|(action, _)| *action).find(|action| *action as u32 == number)
    }

    /// The action in a filter's word; one that does not exist ends the process.
    pub fn of(word: u32) -> Self {
        Self::from_number(word & !RET_DATA).unwrap_or(Self::KillProcess)
    }

    /// Smaller is more restrictive.
    pub const fn rank(word: u32) -> i32 {
        (word & !RET_DATA) as i32
    }
}

/// A set of actions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActionSet(pub u32);

impl ActionSet {
    /// All but [`Action::Allow`].
    pub const ALL_BUT_ALLOW: Self = Self((1 << (Action::ALL.len() - 1)) - 1);

    fn bit(action: Action) -> u32 {
        let at = Action::ALL.iter().position(|(other, _)| *other == action);
        at.map_or(0, |at| 1 << at)
    }

    /// True if `action` is in it.
    pub fn has(self, action: Action) -> bool {
        self.0 & Self::bit(action) != 0
    }

    /// Its names, in order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Action::ALL.into_iter().filter(move |(action, _)| self.has(*action)).map(|(_, name)| name)
    }

    /// The set of these names, with a space between them; `None` if one does not exist. What follows two spaces does
    /// not count, as in Linux.
    pub fn parse(names: &[u8]) -> Option<Self> {
        let mut set = Self(0);
        for name in names.split(|b| *b == b' ').take_while(|name| !name.is_empty()) {
            let (action, _) = Action::ALL.iter().find(|(_, known)| known.as_bytes() == name)?;
            set.0 |= Self::bit(*action);
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_ordered_as_they_restrict() {
        for pair in Action::ALL.windows(2) {
            assert!(Action::rank(pair[0].0 as u32) < Action::rank(pair[1].0 as u32 | 7));
        }
        assert_eq!(Action::of(0x0005_0001), Action::Errno);
        assert_eq!(Action::of(0x1234_0000), Action::KillProcess);
    }

    #[test]
    fn sets_have_names() {
        let all = ActionSet::ALL_BUT_ALLOW;
        let names: Vec<_> = all.names().collect();
        assert_eq!(names.join(" "), "kill_process kill_thread trap errno user_notif trace log");
        assert_eq!(ActionSet::parse(names.join(" ").as_bytes()), Some(all));
        assert_eq!(ActionSet::parse(b""), Some(ActionSet(0)));
        assert!(ActionSet::parse(b"trap allow").unwrap().has(Action::Allow));
        assert_eq!(ActionSet::parse(b"trap nothing"), None);
    }
}
