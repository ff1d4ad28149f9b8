//! Decodes the layout note: the descriptors of the kernel's structures, read from guest memory.
//!
//! They are hostile: every count, length and nesting is bounded before anything is allocated for it,
//! and a type whose fields do not fit into it is refused by name. Afterwards the note is ordinary
//! data of ours.

use std::collections::HashMap;
use std::mem::{offset_of, size_of};
use std::rc::Rc;

use belljar_abi::layout::{self, FieldDesc, Tag, TypeDesc, ValueDesc};

use super::error::{Error, Result};
use super::root::Root;
use crate::target::Space;

/// Most types that are believed.
const MAX_TYPES: u64 = 1024;
/// Most fields or values of one type.
const MAX_ITEMS: u64 = 1024;
/// Most fields and values of all types together.
const MAX_TOTAL: u64 = 32 * 1024;
/// Longest name in bytes.
const MAX_NAME: u64 = 512;
/// Largest type in bytes.
const MAX_SIZE: u64 = 16 << 20;
/// Deepest nesting of arrays.
const MAX_DEPTH: usize = 4;

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What it is; a tag that this version does not know counts as opaque.
    pub tag: Tag,
    /// Bytes of the value.
    pub size: u32,
    /// Elements of an array.
    pub count: u64,
    /// Bytes between elements; 0: as large as the element's type.
    pub stride: u64,
    /// The type that the tag refers to.
    pub type_name: String,
    /// The link field of a list's elements.
    pub member: String,
    /// The element of an array.
    pub elem: Option<Box<Kind>>,
}

/// One field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Bytes from the structure's start.
    pub offset: u64,
    /// What it holds.
    pub kind: Kind,
}

/// One described type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Its name.
    pub name: String,
    /// Bytes of a value.
    pub size: u64,
    /// Structure, enum or flags, as a [`belljar_abi::layout::TypeClass`] number.
    pub class: u32,
    /// Its fields in declaration order.
    pub fields: Vec<Field>,
    /// The names of an enum's values or of a flags type's masks.
    pub values: Vec<(String, i64)>,
}

impl Type {
    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.name == name)
    }

    /// The name of an enum's value.
    pub fn value_name(&self, value: i64) -> Option<&str> {
        self.values.iter().find(|(_, v)| *v == value).map(|(name, _)| name.as_str())
    }

    /// The names of the masks that are wholly set in `bits`, and the bits that no name covers.
    pub fn flag_names(&self, bits: u64) -> (Vec<&str>, u64) {
        let mut rest = bits;
        let mut names = vec![];
        for (name, mask) in &self.values {
            let mask = *mask as u64;
            if mask != 0 && bits & mask == mask {
                names.push(name.as_str());
                rest &= !mask;
            }
        }
        (names, rest)
    }
}

/// All described types by name.
#[derive(Clone, Debug, Default)]
pub struct Note {
    types: HashMap<String, Rc<Type>>,
}

impl Note {
    /// Reads the note that `root` points at.
    pub fn read(space: &Space<'_>, root: &Root) -> Result<Self> {
        if root.layout_version() != layout::VERSION {
            return Err(Error::NoteVersion { found: root.layout_version() });
        }
        let count = root.layout_size() / 8;
        if count == 0 {
            return Err(Error::TooEarly { what: "the layout note" });
        }
        bounded("types", count, MAX_TYPES)?;
        let mut reader = Reader { space, total: 0 };
        let mut types = HashMap::new();
        for i in 0..count {
            let desc = space.read_u64(root.layout().wrapping_add(i * 8))?;
            let ty = reader.read_type(desc)?;
            if let Some(twice) = types.insert(ty.name.clone(), Rc::new(ty)) {
                return Err(bad(format!("`{}` is described twice", twice.name)));
            }
        }
        Ok(Self { types })
    }

    /// The type of that name.
    pub fn get(&self, name: &str) -> Result<&Rc<Type>> {
        self.types.get(name).ok_or_else(|| Error::NoType { name: name.to_owned() })
    }

    /// Bytes of one element of that kind; from the named type where the note left it out.
    pub fn size_of(&self, kind: &Kind) -> Result<u64> {
        match kind.tag {
            _ if kind.size != 0 => Ok(kind.size.into()),
            Tag::Struct | Tag::Enum | Tag::Flags => Ok(self.get(&kind.type_name)?.size),
            _ => Err(bad("an element without a size".into())),
        }
    }

    /// All types, in the order of their names.
    pub fn types(&self) -> Vec<&Rc<Type>> {
        let mut all: Vec<_> = self.types.values().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

fn bad(what: String) -> Error {
    Error::BadNote { what }
}

fn bounded(what: &str, found: u64, most: u64) -> Result<()> {
    if found <= most { Ok(()) } else { Err(bad(format!("it claims {found} {what}"))) }
}

struct Reader<'s, 'r> {
    space: &'s Space<'r>,
    total: u64,
}

impl Reader<'_, '_> {
    fn u64(&self, at: u64) -> Result<u64> {
        Ok(self.space.read_u64(at)?)
    }

    fn u32(&self, at: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.space.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// A `layout::Str` at `at`.
    fn text(&self, at: u64) -> Result<String> {
        let (ptr, len) = (self.u64(at)?, self.u64(at.wrapping_add(8))?);
        bounded("bytes in a name", len, MAX_NAME)?;
        let mut bytes = vec![0; len as usize];
        self.space.read(ptr, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| bad("a name that is not UTF-8".into()))
    }

    /// The addresses of the items of a `layout::Table` at `at`.
    fn table(&mut self, at: u64, item: usize) -> Result<impl Iterator<Item = u64> + use<>> {
        let (ptr, len) = (self.u64(at)?, self.u64(at.wrapping_add(8))?);
        bounded("fields in a type", len, MAX_ITEMS)?;
        self.total += len;
        bounded("fields", self.total, MAX_TOTAL)?;
        Ok((0..len).map(move |i| ptr.wrapping_add(i * item as u64)))
    }

    fn read_type(&mut self, at: u64) -> Result<Type> {
        let field = |offset: usize| at.wrapping_add(offset as u64);
        let name = self.text(field(offset_of!(TypeDesc, name)))?;
        let size = self.u64(field(offset_of!(TypeDesc, size)))?;
        bounded("bytes in a type", size, MAX_SIZE)?;
        let class = self.u32(field(offset_of!(TypeDesc, class)))?;
        let mut fields = vec![];
        for at in self.table(field(offset_of!(TypeDesc, fields)), size_of::<FieldDesc>())? {
            let item = self.read_field(at)?;
            let end = item.offset.checked_add(item.kind.size.into());
            if end.is_none_or(|end| end > size) {
                return Err(bad(format!("`{name}.{}` ends outside its structure", item.name)));
            }
            fields.push(item);
        }
        let mut values = vec![];
        for at in self.table(field(offset_of!(TypeDesc, values)), size_of::<ValueDesc>())? {
            let name = self.text(at.wrapping_add(offset_of!(ValueDesc, name) as u64))?;
            let value = self.u64(at.wrapping_add(offset_of!(ValueDesc, value) as u64))? as i64;
            values.push((name, value));
        }
        Ok(Type { name, size, class, fields, values })
    }

    fn read_field(&self, at: u64) -> Result<Field> {
        Ok(Field {
            name: self.text(at.wrapping_add(offset_of!(FieldDesc, name) as u64))?,
            offset: self.u64(at.wrapping_add(offset_of!(FieldDesc, offset) as u64))?,
            kind: self.read_kind(at.wrapping_add(offset_of!(FieldDesc, kind) as u64), 0)?,
        })
    }

    fn read_kind(&self, at: u64, depth: usize) -> Result<Kind> {
        if depth > MAX_DEPTH {
            return Err(bad("arrays nested without end".into()));
        }
        let field = |offset: usize| at.wrapping_add(offset as u64);
        let elem = match self.u64(field(offset_of!(layout::Kind, elem)))? {
            0 => None,
            elem => Some(Box::new(self.read_kind(elem, depth + 1)?)),
        };
        let kind = Kind {
            tag: Tag::from_u32(self.u32(field(offset_of!(layout::Kind, tag)))?)
                .unwrap_or(Tag::Opaque),
            size: self.u32(field(offset_of!(layout::Kind, size)))?,
            count: self.u64(field(offset_of!(layout::Kind, count)))?,
            stride: self.u64(field(offset_of!(layout::Kind, stride)))?,
            type_name: self.text(field(offset_of!(layout::Kind, type_name)))?.replace(' ', ""),
            member: self.text(field(offset_of!(layout::Kind, member)))?.replace(' ', ""),
            elem,
        };
        if kind.tag == Tag::Array {
            let elem = kind.elem.as_ref().ok_or_else(|| bad("an array of nothing".into()))?;
            let end = kind
                .count
                .checked_sub(1)
                .map_or(Some(0), |n| n.checked_mul(kind.stride)?.checked_add(elem.size.into()));
            if end != Some(kind.size.into()) {
                return Err(bad("an array whose elements do not fill it".into()));
            }
        }
        Ok(kind)
    }
}
