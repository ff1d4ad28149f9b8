//! IMAGE arguments of every form, made in a scratch folder; no kernel runs.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use super::*;

/// A folder that is removed at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("belljar-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The smallest header of a static AArch64 program.
fn program(machine: u16) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16..18].copy_from_slice(&2u16.to_le_bytes());
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes
}

fn resolve(path: &Path) -> Result<Image, Error> {
    Image::resolve(path.to_str().unwrap())
}

fn initrd(image: Image, cmd: &[&str]) -> Result<File, Error> {
    let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
    let program = Program { cmd, env: vec!["A=b c".into()], cores: vec![] };
    let mut archives = image.initrd(&program)?.unwrap();
    Ok(archives.pop().unwrap())
}

/// The content of `name` in the second archive of an initrd.
fn extra(initrd: &File, name: &str) -> String {
    let mut bytes = vec![0; initrd.metadata().unwrap().len() as usize];
    initrd.read_exact_at(&mut bytes, 0).unwrap();
    let mut rest = &bytes[..];
    loop {
        let mut entry = ::cpio::newc::Reader::new(rest).unwrap();
        if entry.entry().name() == format!(".belljar/{name}") {
            let mut text = String::new();
            io::Read::read_to_string(&mut entry, &mut text).unwrap();
            return text;
        }
        rest = entry.finish().unwrap();
    }
}

#[test]
fn a_folder_runs_its_program_found_through_path_and_links() {
    let scratch = Scratch::new("folder");
    scratch.write("usr/bin/busybox", &program(183));
    symlink("usr/bin", scratch.0.join("bin")).unwrap();
    symlink("/bin/busybox", scratch.0.join("usr/bin/sh")).unwrap();
    let file = initrd(resolve(&scratch.0).unwrap(), &["sh", "-c", "exit 7"]).unwrap();
    assert_eq!(extra(&file, "init.argv"), "sh\0-c\0exit 7\0");
    assert!(extra(&file, "init.env").contains("A=b c\0"));
    let file = initrd(resolve(&scratch.0).unwrap(), &[]).unwrap();
    assert_eq!(extra(&file, "init.argv"), "/bin/sh\0");
}

#[test]
fn a_folder_without_init_is_refused() {
    let scratch = Scratch::new("noinit");
    scratch.write("etc/motd", b"hello");
    let error = initrd(resolve(&scratch.0).unwrap(), &[]).unwrap_err().to_string();
    assert!(error.contains("has no init"), "{error}");
    let error = initrd(resolve(&scratch.0).unwrap(), &["ls"]).unwrap_err().to_string();
    assert!(error.contains("has no program \"ls\""), "{error}");
}

#[test]
fn a_program_becomes_init_with_its_arguments() {
    let scratch = Scratch::new("elf");
    let path = scratch.write("prog", &program(183));
    let file = initrd(resolve(&path).unwrap(), &["-v"]).unwrap();
    assert_eq!(extra(&file, "init.argv"), "/bin/prog\0-v\0");
}

#[test]
fn a_program_for_another_machine_is_refused_alone_and_in_a_folder() {
    let scratch = Scratch::new("machine");
    let path = scratch.write("init", &program(62));
    let error = resolve(&path).err().unwrap().to_string();
    assert!(error.contains("x86-64"), "{error}");
    let error = initrd(resolve(&scratch.0).unwrap(), &[]).unwrap_err().to_string();
    assert!(error.contains("/init") && error.contains("x86-64"), "{error}");
}

#[test]
fn archives_are_told_by_their_content_and_checked() {
    let scratch = Scratch::new("archives");
    scratch.write("root/init", &program(183));
    let files = Rootfs::folder(&scratch.0.join("root")).unwrap().archive;
    let mut bytes = vec![0; files.metadata().unwrap().len() as usize];
    files.read_exact_at(&mut bytes, 0).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", scratch.0.join("root")).unwrap();
    let tar = tar.into_inner().unwrap();
    let gzip = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    };
    for (name, content) in
        [("a", bytes.clone()), ("b", gzip(&bytes)), ("c", tar.clone()), ("d", gzip(&tar))]
    {
        let path = scratch.write(name, &content);
        let file = initrd(resolve(&path).unwrap(), &[]).unwrap();
        assert_eq!(extra(&file, "init.argv"), "/init\0", "{name}");
        let cut = scratch.write("cut", &content[..content.len() / 8]);
        let error = resolve(&cut).err().unwrap().to_string();
        assert!(error.contains("is not a whole"), "{name}: {error}");
    }
    let empty = scratch.write("empty.cpio", b"");
    assert!(resolve(&empty).err().unwrap().to_string().contains("cut short"));
    let other = scratch.write("other", b"nothing at all");
    assert!(resolve(&other).err().unwrap().to_string().contains("is no image"));
}

#[test]
fn hard_links_of_a_tar_stay_one_file() {
    let scratch = Scratch::new("hardlink");
    scratch.write("root/bin/busybox", &program(183));
    fs::hard_link(scratch.0.join("root/bin/busybox"), scratch.0.join("root/bin/sh")).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_cksum();
    tar.append_data(&mut header.clone(), "bin/busybox", &program(183)[..]).unwrap();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Link);
    tar.append_link(&mut header, "bin/sh", "bin/busybox").unwrap();
    let path = scratch.write("t.tar", &tar.into_inner().unwrap());
    for image in [path, scratch.0.join("root")] {
        let file = initrd(resolve(&image).unwrap(), &["sh"]).unwrap();
        assert_eq!(extra(&file, "init.argv"), "sh\0", "{}", image.display());
    }
}

#[test]
fn a_built_image_is_run_as_it_is_or_with_another_program() {
    let scratch = Scratch::new("built");
    let mut kernel = vec![0; 4096];
    kernel[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(&MAGIC);
    let kernel = scratch.write("Image", &kernel);
    let error = resolve(&kernel).unwrap().initrd(&Program::default()).unwrap_err().to_string();
    assert!(error.contains("without a program"), "{error}");

    let prog = scratch.write("prog", &program(183));
    let out = scratch.0.join("h.img");
    let args = Program { cmd: vec!["-v".into()], ..Program::default() };
    build(resolve(&prog).unwrap(), &args, Some(&kernel), "quiet", &out).unwrap();
    let image = resolve(&out).unwrap();
    let boot = image.boot(&Program::default(), None).unwrap();
    assert_eq!(boot.kernel, out);
    assert!(boot.initrd.is_none());
    let carried = carried_initrd(&out).unwrap();
    assert_eq!(extra(&carried, "init.argv"), "/bin/prog\0-v\0");
    initrd(resolve(&out).unwrap(), &["/bin/prog", "again"]).unwrap();

    let bytes = fs::read(&out).unwrap();
    let cut = scratch.write("cut.img", &bytes[..bytes.len() - 4096]);
    let error = resolve(&cut).unwrap().initrd(&Program::default()).unwrap_err().to_string();
    assert!(error.contains("cut short"), "{error}");
}

#[test]
fn environment_words_replace_earlier_ones() {
    let mut recipe = Recipe::default();
    recipe.env.insert("HOME".into(), "/h".into());
    let user = ["PATH=/x".to_owned(), "B=1".to_owned(), "B=2".to_owned()];
    let env = environment(&recipe, &user).unwrap();
    assert_eq!(env.iter().filter(|word| word.starts_with("PATH=")).count(), 1);
    for word in ["PATH=/x", "HOME=/h", "B=2"] {
        assert!(env.iter().any(|have| have == word), "{word} in {env:?}");
    }
    assert!(environment(&recipe, &["=x".to_owned()]).is_err());
}
