//! The layout note: how the kernel describes its own structures.
//!
//! `#[derive(Described)]` on a structure or enum emits one [`TypeDesc`] in the kernel's read-only data
//! and one pointer to it in the section [`SECTION`]. The linker script keeps that section; the root
//! page holds its address and length. So the note is part of every RAM image, made from the structures
//! themselves with `offset_of!`, and needs no ELF file at hand.
//!
//! Everything is `repr(C)`, little-endian, with 64-bit pointers, and is read by the VMM as hostile
//! data: it never becomes a reference there. References between descriptions go by type *name*, so a
//! lower floor of the kernel may name a type of a higher one without using it; a kernel test checks
//! that every name resolves.

use core::cell::{Cell, UnsafeCell};
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic;

/// Version of the note's form. Bump it with every change of the structures below.
pub const VERSION: u32 = 1;

/// The section that holds the pointers to the descriptors in the kernel image.
pub const SECTION: &str = ".belljar.layout";

/// Text in the kernel's read-only data.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Str {
    ptr: *const u8,
    len: usize,
}

// SAFETY: a `Str` is only made from a `&'static str`, which is immutable and shareable.
unsafe impl Sync for Str {}
// SAFETY: as above.
unsafe impl Send for Str {}

impl Str {
    /// The empty text.
    pub const EMPTY: Self = Self::new("");

    /// Wraps a text constant.
    pub const fn new(text: &'static str) -> Self {
        Self { ptr: text.as_ptr(), len: text.len() }
    }

    /// The text, for code that runs inside the described program.
    pub const fn as_str(&self) -> &'static str {
        // SAFETY: `new` is the only constructor and took the parts from a `&'static str`.
        unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(self.ptr, self.len)) }
    }
}

/// What a field holds. The numbers are part of the note's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tag {
    /// Bytes that nobody described; `type_name` is the Rust type's text.
    Opaque = 0,
    /// Unsigned integer.
    Uint = 1,
    /// Signed integer.
    Int = 2,
    /// One byte, 0 or 1.
    Bool = 3,
    /// Pointer to `type_name` (empty: to something undescribed); null is "none".
    Ptr = 4,
    /// Embedded structure `type_name`.
    Struct = 5,
    /// Head of a circular list whose elements are `type_name`, linked through their field `member`.
    List = 6,
    /// Link of a circular list: `next`, `prev`.
    Link = 7,
    /// Integer whose values are named by the enum `type_name`.
    Enum = 8,
    /// Integer whose bits are named by `type_name`.
    Flags = 9,
    /// Bytes of text, ended by a NUL or by the field's end.
    Chars = 10,
    /// `count` elements of kind `elem`, `stride` bytes apart.
    Array = 11,
    /// `ptr, len, cap`, each 8 bytes: a growable array of `elem`.
    Vec = 12,
    /// Sequence count: odd while a writer is inside.
    SeqCount = 13,
    /// `ptr, len`, each 8 bytes: text elsewhere in memory.
    Text = 14,
    /// Address in kernel code.
    Code = 15,
    /// Physical address.
    Phys = 16,
    /// Virtual address in a user address space, or any number best shown in hexadecimal.
    Hex = 17,
}

impl Tag {
    /// The tag with that number, if this version knows it.
    pub const fn from_u32(value: u32) -> Option<Self> {
        Some(match value {
            0 => Self::Opaque,
            1 => Self::Uint,
            2 => Self::Int,
            3 => Self::Bool,
            4 => Self::Ptr,
            5 => Self::Struct,
            6 => Self::List,
            7 => Self::Link,
            8 => Self::Enum,
            9 => Self::Flags,
            10 => Self::Chars,
            11 => Self::Array,
            12 => Self::Vec,
            13 => Self::SeqCount,
            14 => Self::Text,
            15 => Self::Code,
            16 => Self::Phys,
            17 => Self::Hex,
            _ => return None,
        })
    }
}

/// What a field is, completely.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Kind {
    /// A [`Tag`].
    pub tag: u32,
    /// Bytes of the whole value.
    pub size: u32,
    /// Elements, for [`Tag::Array`].
    pub count: u64,
    /// Bytes from one element to the next, for [`Tag::Array`] and [`Tag::Vec`]; 0: those of the element's
    /// type.
    pub stride: u64,
    /// The type that the tag refers to.
    pub type_name: Str,
    /// The link field, for [`Tag::List`].
    pub member: Str,
    /// The element's kind, for [`Tag::Array`] and [`Tag::Vec`].
    pub elem: Option<&'static Kind>,
}

impl Kind {
    /// A kind that needs no further word.
    pub const fn plain(tag: Tag, size: usize) -> Self {
        assert!(size <= u32::MAX as usize, "a described field is smaller than 4 GiB");
        Self {
            tag: tag as u32,
            size: size as u32,
            count: 0,
            stride: 0,
            type_name: Str::EMPTY,
            member: Str::EMPTY,
            elem: None,
        }
    }

    /// A kind that refers to a type by name: pointer, embedded structure, enum, flags.
    pub const fn of_type(tag: Tag, type_name: &'static str, size: usize) -> Self {
        Self { type_name: Str::new(type_name), ..Self::plain(tag, size) }
    }

    /// The head of a list of `type_name` through its field `member`.
    pub const fn list(type_name: &'static str, member: &'static str, size: usize) -> Self {
        Self { member: Str::new(member), ..Self::of_type(Tag::List, type_name, size) }
    }

    /// `count` times `elem`, `stride` bytes apart.
    pub const fn array(elem: &'static Kind, count: usize, stride: usize) -> Self {
        // The last element ends where its value does: what wraps it may begin before the first one.
        let size = if count == 0 { 0 } else { stride * (count - 1) + elem.size as usize };
        Self {
            count: count as u64,
            stride: stride as u64,
            elem: Some(elem),
            ..Self::plain(Tag::Array, size)
        }
    }

    /// A growable array `{ptr, len, cap}` of `elem`, `stride` bytes apart (0: as large as its type).
    pub const fn vec(elem: &'static Kind, stride: usize) -> Self {
        Self { stride: stride as u64, elem: Some(elem), ..Self::plain(Tag::Vec, 24) }
    }

    /// The same kind, with the Rust type's text if nothing better is known.
    pub const fn or_named(self, text: &'static str) -> Self {
        if self.tag == Tag::Opaque as u32 && self.type_name.len == 0 {
            Self { type_name: Str::new(text), ..self }
        } else {
            self
        }
    }
}

/// One field of a described structure.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FieldDesc {
    /// The field's name.
    pub name: Str,
    /// Bytes from the structure's start.
    pub offset: u64,
    /// What it holds.
    pub kind: Kind,
}

/// One named value of an enum, or one named mask of a flags type.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ValueDesc {
    /// The variant's or flag's name.
    pub name: Str,
    /// Its value, sign-extended.
    pub value: i64,
}

impl ValueDesc {
    /// Names a value.
    pub const fn new(name: &'static str, value: i64) -> Self {
        Self { name: Str::new(name), value }
    }
}

/// What a [`TypeDesc`] describes. The numbers are part of the note's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TypeClass {
    /// A structure: `fields`.
    Struct = 0,
    /// An enum with an explicit `repr`: `values` are its discriminants.
    Enum = 1,
    /// A set of bits: `values` are masks.
    Flags = 2,
}

/// One described type.
#[repr(C)]
pub struct TypeDesc {
    /// Its name, unique in the kernel.
    pub name: Str,
    /// Bytes of one value.
    pub size: u64,
    /// A [`TypeClass`].
    pub class: u32,
    /// [`VERSION`].
    pub version: u32,
    /// The fields of a structure.
    pub fields: Table<FieldDesc>,
    /// The named values of an enum or flags type.
    pub values: Table<ValueDesc>,
}

/// `ptr, len` of a constant table.
#[repr(C)]
pub struct Table<T: 'static> {
    ptr: *const T,
    len: usize,
}

// SAFETY: a `Table` is only made from a `&'static [T]` of shareable elements.
unsafe impl<T: Sync> Sync for Table<T> {}

impl<T> Table<T> {
    /// Wraps a constant table.
    pub const fn new(items: &'static [T]) -> Self {
        Self { ptr: items.as_ptr(), len: items.len() }
    }

    /// The table, for code that runs inside the described program.
    pub const fn as_slice(&self) -> &'static [T] {
        // SAFETY: `new` is the only constructor and took the parts from a `&'static [T]`.
        unsafe { core::slice::from_raw_parts(self.ptr, self.len) }
    }
}

// Tripwires: the VMM decodes these from raw bytes. Raise `VERSION` before changing any of them.
const _: () = {
    assert!(size_of::<usize>() == 8, "the note's form has 64-bit pointers");
    assert!(size_of::<Str>() == 16, "layout note: Str is part of the form");
    assert!(size_of::<Kind>() == 64, "layout note: Kind is part of the form");
    assert!(size_of::<FieldDesc>() == 88, "layout note: FieldDesc is part of the form");
    assert!(size_of::<ValueDesc>() == 24, "layout note: ValueDesc is part of the form");
    assert!(size_of::<TypeDesc>() == 64, "layout note: TypeDesc is part of the form");
    assert!(core::mem::offset_of!(FieldDesc, kind) == 24, "layout note: FieldDesc.kind");
    assert!(core::mem::offset_of!(TypeDesc, fields) == 32, "layout note: TypeDesc.fields");
    assert!(core::mem::offset_of!(TypeDesc, values) == 48, "layout note: TypeDesc.values");
};

/// A type with a descriptor in the layout note. Implemented by `#[derive(Described)]` and
/// [`describe_flags!`](crate::describe_flags).
pub trait Described {
    /// The name in the note.
    const NAME: &'static str;
    /// The descriptor.
    fn descriptor() -> &'static TypeDesc;
}

/// A type that is described where it stands as a field.
pub trait DescribeField {
    /// What the field holds.
    const KIND: Kind;
    /// Where the value begins inside the field: not 0 for a lock around a value.
    const DELTA: usize = 0;
    /// [`Self::KIND`] as something to point at.
    const KIND_REF: &'static Kind = &Self::KIND;
}

/// A never-null pointer, so that `Option` of it is a pointer as well.
pub trait DescribePointer: DescribeField {}

macro_rules! plain {
    ($($tag:ident: $($ty:ty),+;)+) => { $($(
        impl DescribeField for $ty {
            const KIND: Kind = Kind::plain(Tag::$tag, size_of::<$ty>());
        }
    )+)+ };
}

plain! {
    Uint: u16, u32, u64, usize, atomic::AtomicU8, atomic::AtomicU16, atomic::AtomicU32,
        atomic::AtomicU64, atomic::AtomicUsize;
    Int: i8, i16, i32, i64, isize, atomic::AtomicI8, atomic::AtomicI16, atomic::AtomicI32,
        atomic::AtomicI64, atomic::AtomicIsize;
    Bool: bool, atomic::AtomicBool;
    Text: &'static str;
}

impl DescribeField for u8 {
    const KIND: Kind = Kind::plain(Tag::Uint, 1);
}

macro_rules! pointers {
    ($($ty:ty),+) => { $(
        impl<T: Described> DescribeField for $ty {
            const KIND: Kind = Kind::of_type(Tag::Ptr, T::NAME, 8);
        }
    )+ };
}

pointers!(*const T, *mut T, atomic::AtomicPtr<T>, NonNull<T>, &'static T);

impl<T: Described> DescribePointer for NonNull<T> {}
impl<T: Described> DescribePointer for &'static T {}

impl<P: DescribePointer> DescribeField for Option<P> {
    const KIND: Kind = P::KIND;
    const DELTA: usize = P::DELTA;
}

/// Byte arrays are text (`comm`); other arrays are arrays.
impl<T: DescribeField, const N: usize> DescribeField for [T; N] {
    const KIND: Kind = {
        if T::KIND.tag == Tag::Uint as u32 && T::KIND.size == 1 {
            Kind::plain(Tag::Chars, N)
        } else {
            Kind::array(T::KIND_REF, N, size_of::<T>())
        }
    };
    const DELTA: usize = T::DELTA;
}

macro_rules! transparent {
    ($($ty:ty),+) => { $(
        impl<T: DescribeField> DescribeField for $ty {
            const KIND: Kind = T::KIND;
            const DELTA: usize = T::DELTA;
        }
    )+ };
}

transparent!(Cell<T>, UnsafeCell<T>, core::mem::MaybeUninit<T>, core::mem::ManuallyDrop<T>);

/// Finds a field's kind: its own if the type has one, else opaque bytes. The inherent constant exists
/// only for described types and wins over the trait's where both exist.
#[doc(hidden)]
pub struct Probe<T>(PhantomData<T>);

impl<T: DescribeField> Probe<T> {
    #[doc(hidden)]
    pub const KIND: Kind = T::KIND;
    #[doc(hidden)]
    pub const DELTA: usize = T::DELTA;
    #[doc(hidden)]
    pub const SIZE: usize = T::KIND.size as usize;
}

#[doc(hidden)]
pub trait ProbeFallback {
    const KIND: Kind;
    const DELTA: usize;
    const SIZE: usize;
}

impl<T> ProbeFallback for Probe<T> {
    const KIND: Kind = Kind::plain(Tag::Opaque, size_of::<T>());
    const DELTA: usize = 0;
    const SIZE: usize = size_of::<T>();
}

/// Describes a `bitflags!` type: `describe_flags!(VmFlags)` beside its definition.
#[macro_export]
macro_rules! describe_flags {
    ($ty:ident) => {
        const _: () = {
            use $crate::bitflags::Flags as _;
            use $crate::layout as l;
            const N: usize = <$ty as $crate::bitflags::Flags>::FLAGS.len();
            static VALUES: [l::ValueDesc; N] = {
                let mut values = [l::ValueDesc::new("", 0); N];
                let mut i = 0;
                while i < N {
                    let flag = &$ty::FLAGS[i];
                    values[i] = l::ValueDesc::new(flag.name(), flag.value().bits() as i64);
                    i += 1;
                }
                values
            };
            static DESC: l::TypeDesc = l::TypeDesc {
                name: l::Str::new(stringify!($ty)),
                size: size_of::<$ty>() as u64,
                class: l::TypeClass::Flags as u32,
                version: l::VERSION,
                fields: l::Table::new(&[]),
                values: l::Table::new(&VALUES),
            };
            #[used]
            #[cfg(target_os = "none")]
            #[unsafe(link_section = ".belljar.layout")]
            static ENTRY: &l::TypeDesc = &DESC;
            #[cfg(target_os = "linux")]
            const _: () = {
                static NODE: l::registry::Node = l::registry::Node::new(&DESC);
                extern "C" fn register() {
                    l::registry::add(&NODE);
                }
                #[used]
                #[unsafe(link_section = ".init_array")]
                static ENTRY: extern "C" fn() = register;
            };
            impl l::Described for $ty {
                const NAME: &'static str = stringify!($ty);
                fn descriptor() -> &'static l::TypeDesc {
                    &DESC
                }
            }
            impl l::DescribeField for $ty {
                const KIND: l::Kind =
                    l::Kind::of_type(l::Tag::Flags, stringify!($ty), size_of::<$ty>());
            }
        };
    };
}

#[cfg(target_os = "linux")]
#[doc(hidden)]
pub mod registry;
#[cfg(test)]
mod tests;
