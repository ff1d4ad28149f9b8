//! What a program finds on its stack: arguments, environment and the auxiliary vector (getauxval(3)).

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::Binary;
use super::load::{Elf, Loader};
use super::strings::Strings;
use crate::addr::PAGE_SIZE;
use crate::arch;
use crate::array::Array;
use crate::errno::{Errno, Result};
use crate::ns::Cred;

/// Stack that is mapped from the start; it grows on demand.
const INITIAL_STACK: u64 = 132 << 10;

impl Loader<'_> {
    /// Strings, vectors and the auxiliary vector (getauxval(3)), as a program finds them at its start.
    #[inline(never)]
    pub(super) fn build_stack(
        &self,
        binary: &Binary,
        program: &Elf,
        bias: u64,
        base: u64,
        cred: &Cred,
        stack_top: u64,
    ) -> Result<u64> {
        const PLATFORM: &[u8] = b"aarch64\0";
        let (argv, envp) = (&binary.argv, &binary.envp);
        // From the top: a null word, the file name, environment, arguments.
        let name_at = stack_top - 8 - binary.name.len() as u64 - 1;
        let env_at = name_at - envp.bytes.len() as u64;
        let arg_at = env_at - argv.bytes.len() as u64;
        let platform_at = (arg_at - PLATFORM.len() as u64) & !15;
        let random_at = platform_at - 16;
        let (hwcap, hwcap2) = arch::hwcaps();
        let root = cred.user_ns.root_uid();
        let raised = root != Some(cred.uid)
            && (root == Some(cred.euid) || !cred.cap_permitted.is_within(cred.cap_ambient));
        let secure = cred.euid != cred.uid || cred.egid != cred.gid || raised;
        let (uids, gids) = (cred.user_ns.uids(), cred.user_ns.gids());
        let auxv: [(u64, u64); 21] = [
            (AT_HWCAP, hwcap),
            (AT_PAGESZ, PAGE_SIZE as u64),
            (AT_CLKTCK, 100),
            (AT_PHDR, program.image.phdr.wrapping_add(bias)),
            (AT_PHENT, u64::from(program.image.phentsize)),
            (AT_PHNUM, u64::from(program.image.phnum)),
            (AT_BASE, base),
            (AT_FLAGS, 0),
            (AT_ENTRY, program.image.entry.wrapping_add(bias)),
            (AT_UID, u64::from(uids.from_kernel_munged(cred.uid))),
            (AT_EUID, u64::from(uids.from_kernel_munged(cred.euid))),
            (AT_GID, u64::from(gids.from_kernel_munged(cred.gid))),
            (AT_EGID, u64::from(gids.from_kernel_munged(cred.egid))),
            (AT_SECURE, u64::from(secure)),
            (AT_RANDOM, random_at),
            (AT_HWCAP2, hwcap2),
            (AT_EXECFN, name_at),
            (AT_PLATFORM, platform_at),
            (AT_MINSIGSTKSZ, crate::process::sigframe::MIN_STACK as u64),
            (AT_NULL, 0),
            (AT_NULL, 0),
        ];
        let words = 1 + argv.count + 1 + envp.count + 1 + auxv.len() * 2;
        let sp = (random_at - words as u64 * 8) & !15;

        let mut image = Vec::new();
        let len = (stack_top - sp) as usize;
        image.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        let word = |image: &mut Vec<u8>, v: u64| image.extend_from_slice(&v.to_le_bytes());
        word(&mut image, argv.count as u64);
        push_pointers(&mut image, argv, arg_at);
        push_pointers(&mut image, envp, env_at);
        for (key, value) in auxv {
            word(&mut image, key);
            word(&mut image, value);
        }
        image.resize((random_at - sp) as usize, 0);
        word(&mut image, crate::drivers::random::random_u64());
        word(&mut image, crate::drivers::random::random_u64());
        image.extend_from_slice(PLATFORM);
        image.resize((arg_at - sp) as usize, 0);
        image.extend_from_slice(&argv.bytes);
        image.extend_from_slice(&envp.bytes);
        image.extend_from_slice(&binary.name);
        image.resize(len, 0);

        let size = (len as u64 + INITIAL_STACK).next_multiple_of(PAGE_SIZE as u64);
        self.mm.map_stack(stack_top, size, program.image.exec_stack)?;
        if self.mm.write_remote(sp, &image) != len {
            return Err(Errno::ENOMEM);
        }
        let layout = &self.mm.layout;
        for (slot, value) in [
            (&layout.start_stack, sp),
            (&layout.arg_start, arg_at),
            (&layout.arg_end, env_at),
            (&layout.env_start, env_at),
            (&layout.env_end, name_at),
        ] {
            slot.store(value, Ordering::Relaxed);
        }
        let mut kept = Array::new();
        kept.try_reserve(auxv.len() * 2)?;
        for (key, value) in auxv {
            kept.try_push(key)?;
            kept.try_push(value)?;
        }
        self.mm.set_auxv(kept);
        Ok(sp)
    }
}

const AT_NULL: u64 = 0;
const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
const AT_PAGESZ: u64 = 6;
const AT_BASE: u64 = 7;
const AT_FLAGS: u64 = 8;
const AT_ENTRY: u64 = 9;
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;
const AT_GID: u64 = 13;
const AT_EGID: u64 = 14;
const AT_PLATFORM: u64 = 15;
const AT_HWCAP: u64 = 16;
const AT_CLKTCK: u64 = 17;
const AT_SECURE: u64 = 23;
const AT_RANDOM: u64 = 25;
const AT_HWCAP2: u64 = 26;
const AT_EXECFN: u64 = 31;
const AT_MINSIGSTKSZ: u64 = 51;

fn push_pointers(image: &mut Vec<u8>, strings: &Strings, at: u64) {
    let mut offset = 0;
    for s in strings.bytes.split_inclusive(|&b| b == 0) {
        image.extend_from_slice(&(at + offset).to_le_bytes());
        offset += s.len() as u64;
    }
    image.extend_from_slice(&0_u64.to_le_bytes());
}
