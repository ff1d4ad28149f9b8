//! What the derive emits, checked against the structures themselves.

use super::*;
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, AtomicU32};

bitflags::bitflags! {
    #[derive(Clone, Copy)]
    struct Access: u32 {
        const READ = 1;
        const WRITE = 2;
    }
}
describe_flags!(Access);

#[derive(crate::Described)]
#[repr(i16)]
#[allow(dead_code, reason = "only described")]
enum Mode {
    Off = -1,
    On = 7,
}

struct Lock<T> {
    _word: u32,
    value: T,
}

impl<T: DescribeField> DescribeField for Lock<T> {
    const KIND: Kind = T::KIND;
    const DELTA: usize = offset_of!(Self, value) + T::DELTA;
}

struct Unknown(#[allow(dead_code, reason = "only described")] [u16; 3]);

#[derive(crate::Described)]
#[allow(dead_code, reason = "only described")]
struct Inner {
    a: u8,
    b: u64,
}

#[derive(crate::Described)]
#[described(name = "Node")]
#[allow(dead_code, reason = "only described")]
struct Sample {
    id: AtomicU32,
    #[described(as = "enum Mode")]
    mode: AtomicU32,
    access: Access,
    comm: [u8; 16],
    next: *const Sample,
    raw: *mut Unknown,
    other: Option<NonNull<Inner>>,
    inner: Inner,
    table: [Inner; 3],
    locked: Lock<u64>,
    #[described(as = "array ptr Node")]
    locks: [Lock<usize>; 4],
    #[described(as = "chars")]
    name: Lock<[u8; 5]>,
    unknown: Unknown,
    #[described(list = "Node::link", name = "kids")]
    children: [usize; 2],
    #[described(as = "array list Node::link")]
    queues: [[usize; 2]; 4],
    #[described(as = "vec ptr Node")]
    many: [usize; 3],
    #[described(skip)]
    hidden: u32,
    r#type: i8,
    owner: AtomicPtr<Sample>,
}

fn field(name: &str) -> FieldDesc {
    *Sample::descriptor().fields.as_slice().iter().find(|f| f.name.as_str() == name).unwrap()
}

#[track_caller]
fn assert_kind(name: &str, tag: Tag, size: usize, type_name: &str) {
    let kind = field(name).kind;
    assert_eq!(Tag::from_u32(kind.tag), Some(tag), "{name}");
    assert_eq!(kind.size as usize, size, "{name}");
    assert_eq!(kind.type_name.as_str(), type_name, "{name}");
}

#[test]
fn fields_get_kinds_from_their_types() {
    assert_eq!(Sample::NAME, "Node");
    assert_eq!(Sample::descriptor().size as usize, size_of::<Sample>());
    assert_kind("id", Tag::Uint, 4, "");
    assert_kind("access", Tag::Flags, 4, "Access");
    assert_kind("comm", Tag::Chars, 16, "");
    assert_kind("next", Tag::Ptr, 8, "Node");
    assert_kind("raw", Tag::Ptr, 8, "");
    assert_kind("other", Tag::Ptr, 8, "Inner");
    assert_kind("inner", Tag::Struct, 16, "Inner");
    assert_kind("unknown", Tag::Opaque, 6, "Unknown");
    assert_kind("type", Tag::Int, 1, "");
    assert_kind("owner", Tag::Ptr, 8, "Node");
    assert_eq!(field("comm").offset as usize, offset_of!(Sample, comm));
}

#[test]
fn attributes_override_types() {
    assert_kind("mode", Tag::Enum, 4, "Mode");
    assert_kind("kids", Tag::List, 16, "Node");
    assert_eq!(field("kids").kind.member.as_str(), "link");
    let queues = field("queues").kind;
    assert_eq!((queues.tag, queues.count, queues.size), (Tag::Array as u32, 4, 64));
    let elem = queues.elem.unwrap();
    assert_eq!((elem.tag, elem.size, elem.member.as_str()), (Tag::List as u32, 16, "link"));
    assert_eq!(queues.stride, 16);
    let many = field("many").kind;
    assert_eq!(many.tag, Tag::Vec as u32);
    assert_eq!(many.elem.unwrap().type_name.as_str(), "Node");
    assert!(Sample::descriptor().fields.as_slice().iter().all(|f| f.name.as_str() != "hidden"));
}

#[test]
fn wrapped_value_is_found_inside_its_lock() {
    assert_kind("locked", Tag::Uint, 8, "");
    assert_eq!(
        field("locked").offset as usize,
        offset_of!(Sample, locked) + offset_of!(Lock<u64>, value)
    );
}

#[test]
fn wrapped_elements_are_found_inside_their_locks() {
    let locks = field("locks");
    let inside = offset_of!(Lock<usize>, value);
    assert_eq!(locks.offset as usize, offset_of!(Sample, locks) + inside);
    assert_eq!(locks.kind.stride as usize, size_of::<Lock<usize>>());
    assert_kind("locks", Tag::Array, 3 * size_of::<Lock<usize>>() + 8, "");
    assert_kind("name", Tag::Chars, 5, "");
}

#[test]
fn arrays_carry_their_element() {
    let table = field("table").kind;
    assert_eq!((table.tag, table.count), (Tag::Array as u32, 3));
    assert_eq!(table.elem.unwrap().type_name.as_str(), "Inner");
    assert_eq!(table.elem.unwrap().size as usize, size_of::<Inner>());
}

#[test]
fn enums_and_flags_name_their_values() {
    let names = |d: &TypeDesc| {
        let mut all = [("", 0); 2];
        for (slot, v) in all.iter_mut().zip(d.values.as_slice()) {
            *slot = (v.name.as_str(), v.value);
        }
        all
    };
    assert_eq!(names(Mode::descriptor()), [("Off", -1), ("On", 7)]);
    assert_eq!(names(Access::descriptor()), [("READ", 1), ("WRITE", 2)]);
    assert_eq!(Mode::descriptor().class, TypeClass::Enum as u32);
    assert_eq!(Access::descriptor().class, TypeClass::Flags as u32);
}

#[test]
fn unknown_tags_are_refused() {
    assert_eq!(Tag::from_u32(Tag::Hex as u32 + 1), None);
    assert_eq!(Tag::from_u32(Tag::Hex as u32), Some(Tag::Hex));
}

/// `Tag::Text` reads a `&str` field as pointer and length; Rust does not promise that order.
#[test]
fn a_text_reference_is_pointer_then_length() {
    let text: &'static str = "abc";
    // SAFETY: both are two words, and any words are a valid array.
    let words: [usize; 2] = unsafe { core::mem::transmute(text) };
    assert_eq!(words, [text.as_ptr() as usize, text.len()]);
}
