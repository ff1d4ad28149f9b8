//! Names of the CPU features that programs are shown in AT_HWCAP (arm64's asm/hwcap.h and hwcap_str):
//! for /proc/cpuinfo, for the manifest of a snapshot, and for saying what a machine lacks.

/// The names, in the order of the bits.
pub const NAMES: [&str; 32] = [
    "fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp",
    "asimdhp", "cpuid", "asimdrdm", "jscvt", "fcma", "lrcpc", "dcpop", "sha3", "sm3", "sm4",
    "asimddp", "sha512", "sve", "asimdfhm", "dit", "uscat", "ilrcpc", "flagm", "ssbs", "sb",
    "paca", "pacg",
];

/// The names of the bits that are set.
pub fn names(hwcap: u64) -> impl Iterator<Item = &'static str> {
    NAMES.iter().enumerate().filter(move |(bit, _)| hwcap & 1 << bit != 0).map(|(_, name)| *name)
}

/// The bits of names; `Err` with the first one that is none.
pub fn bits<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<u64, &'a str> {
    names.into_iter().try_fold(0, |bits, name| {
        let bit = NAMES.iter().position(|known| *known == name).ok_or(name)?;
        Ok(bits | 1 << bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_names_are_each_others_inverse() {
        let all: Vec<_> = names(0b1010_0000_0011).collect();
        assert_eq!(all, ["fp", "asimd", "fphp", "cpuid"]);
        assert_eq!(bits(all), Ok(0b1010_0000_0011));
        assert_eq!(bits(["fp", "nonsense"]), Err("nonsense"));
    }
}
