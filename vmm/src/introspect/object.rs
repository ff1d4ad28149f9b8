//! A described structure in guest memory, its fields read by name.
//!
//! Nothing here trusts the guest: a list is followed only while every `prev` leads back, which an
//! endless one cannot do, arrays are bounded, and every number is read where the note says or not at
//! all.

use std::rc::Rc;

use belljar_abi::layout::Tag;

use super::Kernel;
use super::error::{Error, Result};
use super::note::{Field, Kind, Type};

/// Most elements of a list that are followed: more tasks than any guest of ours can hold.
const MAX_LIST: usize = 1 << 20;
/// Most elements of an array that are read.
const MAX_ARRAY: u64 = 1 << 20;
/// Most bytes of a text.
const MAX_TEXT: u64 = 4096;

/// A structure at an address.
#[derive(Clone)]
pub struct Object<'k> {
    kernel: &'k Kernel<'k>,
    ty: Rc<Type>,
    addr: u64,
}

/// A decoded value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Unsigned integer.
    Uint(u64),
    /// Signed integer.
    Int(i64),
    /// Truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// Address, with the name of what is there; 0 is "none".
    Addr(u64, String),
    /// Address in kernel code.
    Code(u64),
    /// Named value of an enum.
    Enum(i64, Option<String>),
    /// Named bits, and the bits without a name.
    Flags(Vec<String>, u64),
    /// Elements.
    Array(Vec<Value>),
    /// Fields of an embedded structure.
    Struct(Vec<(String, Value)>),
    /// The number of elements of a list.
    List(String, usize),
    /// A list link: whether it is linked.
    Link(bool),
    /// Undescribed bytes.
    Opaque(String),
}

impl<'k> Object<'k> {
    /// The structure `type_name` at `addr`.
    pub fn new(kernel: &'k Kernel<'k>, type_name: &str, addr: u64) -> Result<Self> {
        Ok(Self { kernel, ty: kernel.note().get(type_name)?.clone(), addr })
    }

    /// The kernel that it belongs to.
    pub fn kernel(&self) -> &'k Kernel<'k> {
        self.kernel
    }

    /// Its address.
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Its type.
    pub fn ty(&self) -> &Type {
        &self.ty
    }

    /// Whether the type has the field (a dotted path).
    pub fn has(&self, path: &str) -> bool {
        self.locate(path).is_ok()
    }

    /// The field at a dotted path through embedded structures, and its address.
    fn locate(&self, path: &str) -> Result<(Field, u64)> {
        let mut ty = self.ty.clone();
        let mut addr = self.addr;
        let mut parts = path.split('.');
        let mut part = parts.next().unwrap_or(path);
        loop {
            let field = ty
                .field(part)
                .cloned()
                .ok_or_else(|| Error::NoField { owner: ty.name.clone(), field: part.to_owned() })?;
            addr = addr.wrapping_add(field.offset);
            let Some(next) = parts.next() else { return Ok((field, addr)) };
            if field.kind.tag != Tag::Struct {
                return Err(self.wrong_kind(path, &field.kind, "a structure"));
            }
            ty = self.kernel.note().get(&field.kind.type_name)?.clone();
            part = next;
        }
    }

    fn wrong_kind(&self, path: &str, kind: &Kind, wanted: &'static str) -> Error {
        Error::WrongKind {
            owner: self.ty.name.clone(),
            field: path.to_owned(),
            found: format!("{:?}", kind.tag),
            wanted,
        }
    }

    /// A number of at most eight bytes; signed ones are extended.
    fn number(&self, kind: &Kind, addr: u64) -> Result<u64> {
        let size = (kind.size as usize).clamp(1, 8);
        let mut bytes = [0; 8];
        self.kernel.space().read(addr, &mut bytes[..size])?;
        let value = u64::from_le_bytes(bytes);
        let shift = 64 - 8 * size as u32;
        Ok(match kind.tag {
            Tag::Int => ((value << shift) as i64 >> shift) as u64,
            _ => value,
        })
    }

    /// An unsigned number, address or sequence count.
    pub fn uint(&self, path: &str) -> Result<u64> {
        let (field, addr) = self.locate(path)?;
        match field.kind.tag {
            Tag::Struct
            | Tag::List
            | Tag::Link
            | Tag::Array
            | Tag::Vec
            | Tag::Text
            | Tag::Chars
            | Tag::Opaque => Err(self.wrong_kind(path, &field.kind, "a number")),
            _ => self.number(&field.kind, addr),
        }
    }

    /// A signed number.
    pub fn int(&self, path: &str) -> Result<i64> {
        self.uint(path).map(|v| v as i64)
    }

    /// A truth value.
    pub fn bool(&self, path: &str) -> Result<bool> {
        self.uint(path).map(|v| v != 0)
    }

    /// Text: bytes in place, or `&str`.
    pub fn text(&self, path: &str) -> Result<String> {
        let (field, addr) = self.locate(path)?;
        match self.value_of(&field.kind, addr)? {
            Value::Text(text) => Ok(text),
            _ => Err(self.wrong_kind(path, &field.kind, "text")),
        }
    }

    /// The name of an enum's value, or its number.
    pub fn enum_name(&self, path: &str) -> Result<String> {
        let (field, addr) = self.locate(path)?;
        match self.value_of(&field.kind, addr)? {
            Value::Enum(_, Some(name)) => Ok(name),
            Value::Enum(value, None) => Ok(value.to_string()),
            _ => Err(self.wrong_kind(path, &field.kind, "an enum")),
        }
    }

    /// The names of the set bits.
    pub fn flags(&self, path: &str) -> Result<Vec<String>> {
        let (field, addr) = self.locate(path)?;
        match self.value_of(&field.kind, addr)? {
            Value::Flags(names, _) => Ok(names),
            _ => Err(self.wrong_kind(path, &field.kind, "flags")),
        }
    }

    /// The address of a field.
    pub fn addr_of(&self, path: &str) -> Result<u64> {
        Ok(self.locate(path)?.1)
    }

    /// The structure that a pointer leads to; `None` for null.
    pub fn ptr(&self, path: &str) -> Result<Option<Object<'k>>> {
        let (field, addr) = self.locate(path)?;
        if field.kind.tag != Tag::Ptr {
            return Err(self.wrong_kind(path, &field.kind, "a pointer"));
        }
        match self.kernel.space().read_u64(addr)? {
            0 => Ok(None),
            to => Object::new(self.kernel, &field.kind.type_name, to).map(Some),
        }
    }

    /// An embedded structure.
    pub fn embedded(&self, path: &str) -> Result<Object<'k>> {
        let (field, addr) = self.locate(path)?;
        if field.kind.tag != Tag::Struct {
            return Err(self.wrong_kind(path, &field.kind, "a structure"));
        }
        Object::new(self.kernel, &field.kind.type_name, addr)
    }

    /// The elements of a list.
    pub fn list(&self, path: &str) -> Result<List<'k>> {
        let (field, addr) = self.locate(path)?;
        self.list_at(path, &field.kind, addr)
    }

    fn list_at(&self, path: &str, kind: &Kind, addr: u64) -> Result<List<'k>> {
        if kind.tag != Tag::List {
            return Err(self.wrong_kind(path, kind, "a list"));
        }
        List::new(self.kernel, addr, &kind.type_name, &kind.member)
    }

    /// The elements of an array of lists, one list after the other.
    pub fn lists(&self, path: &str) -> Result<Vec<List<'k>>> {
        let (kind, addrs) = self.elements(path)?;
        addrs.into_iter().map(|addr| self.list_at(path, &kind, addr)).collect()
    }

    /// The structures in an array (in place or growable), or those that its pointers lead to.
    pub fn array(&self, path: &str) -> Result<Vec<Object<'k>>> {
        let (kind, addrs) = self.elements(path)?;
        let mut objects = vec![];
        for addr in addrs {
            let at = match kind.tag {
                Tag::Struct => addr,
                Tag::Ptr => self.kernel.space().read_u64(addr)?,
                _ => return Err(self.wrong_kind(path, &kind, "an array of structures")),
            };
            if at != 0 {
                objects.push(Object::new(self.kernel, &kind.type_name, at)?);
            }
        }
        Ok(objects)
    }

    /// The structure that pointer number `index` of an array leads to; `None` for null.
    pub fn element(&self, path: &str, index: usize) -> Result<Option<Object<'k>>> {
        let (kind, addrs) = self.elements(path)?;
        let Some(addr) = addrs.get(index).filter(|_| kind.tag == Tag::Ptr) else {
            return Err(self.wrong_kind(path, &kind, "a large enough array of pointers"));
        };
        match self.kernel.space().read_u64(*addr)? {
            0 => Ok(None),
            to => Object::new(self.kernel, &kind.type_name, to).map(Some),
        }
    }

    /// The bytes in an array of bytes.
    pub fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let (kind, addrs) = self.elements(path)?;
        if kind.size != 1 {
            return Err(self.wrong_kind(path, &kind, "an array of bytes"));
        }
        let mut bytes = vec![0; addrs.len()];
        if let Some(start) = addrs.first() {
            self.kernel.space().read(*start, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// How many elements an array has.
    pub fn count(&self, path: &str) -> Result<u64> {
        let (field, addr) = self.locate(path)?;
        Ok(self.extent(path, &field.kind, addr)?.1)
    }

    /// The numbers in an array.
    pub fn numbers(&self, path: &str) -> Result<Vec<u64>> {
        let (kind, addrs) = self.elements(path)?;
        addrs.into_iter().map(|addr| self.number(&kind, addr)).collect()
    }

    /// The element kind and the addresses of the elements of an array field.
    fn elements(&self, path: &str) -> Result<(Kind, Vec<u64>)> {
        let (field, addr) = self.locate(path)?;
        self.elements_of(path, &field.kind, addr)
    }

    fn elements_of(&self, path: &str, kind: &Kind, addr: u64) -> Result<(Kind, Vec<u64>)> {
        let (start, count) = self.extent(path, kind, addr)?;
        let Some(elem) = kind.elem.as_deref() else {
            return Err(self.wrong_kind(path, kind, "an array"));
        };
        if count > MAX_ARRAY {
            return Err(Error::Damaged { what: format!("`{}.{path}`", self.ty.name) });
        }
        let mut elem = elem.clone();
        if elem.size == 0 {
            elem.size = self.kernel.note().size_of(&elem)? as u32;
        }
        let stride = if kind.stride != 0 { kind.stride } else { elem.size.into() };
        let addrs = (0..count).map(|i| start.wrapping_add(i.wrapping_mul(stride))).collect();
        Ok((elem, addrs))
    }

    /// Where the elements of an array begin, and how many there are.
    fn extent(&self, path: &str, kind: &Kind, addr: u64) -> Result<(u64, u64)> {
        match kind.tag {
            Tag::Array => Ok((addr, kind.count)),
            Tag::Vec => {
                let space = self.kernel.space();
                Ok((space.read_u64(addr)?, space.read_u64(addr.wrapping_add(8))?))
            }
            _ => Err(self.wrong_kind(path, kind, "an array")),
        }
    }

    /// Every field with its value, embedded structures included.
    pub fn values(&self) -> Result<Vec<(String, Value)>> {
        self.values_nested(0)
    }

    fn values_nested(&self, depth: usize) -> Result<Vec<(String, Value)>> {
        /// Structures embedded in structures: only a damaged note goes deeper.
        const DEEPEST: usize = 8;
        if depth > DEEPEST {
            return Err(Error::BadNote { what: format!("`{}` contains itself", self.ty.name) });
        }
        let mut values = vec![];
        for field in &self.ty.fields {
            let addr = self.addr.wrapping_add(field.offset);
            let value = match field.kind.tag {
                Tag::Struct => Object::new(self.kernel, &field.kind.type_name, addr)
                    .and_then(|inner| inner.values_nested(depth + 1))
                    .map(Value::Struct),
                _ => self.value_of(&field.kind, addr),
            };
            match value {
                Ok(value) => values.push((field.name.clone(), value)),
                // What one field points at may be gone; the others still count.
                Err(e) => values.push((field.name.clone(), Value::Opaque(e.to_string()))),
            }
        }
        Ok(values)
    }

    /// The value of one field by its path.
    pub fn value(&self, path: &str) -> Result<Value> {
        let (field, addr) = self.locate(path)?;
        self.value_of(&field.kind, addr)
    }

    fn value_of(&self, kind: &Kind, addr: u64) -> Result<Value> {
        let space = self.kernel.space();
        Ok(match kind.tag {
            Tag::Uint | Tag::SeqCount => Value::Uint(self.number(kind, addr)?),
            Tag::Int => Value::Int(self.number(kind, addr)? as i64),
            Tag::Bool => Value::Bool(self.number(kind, addr)? != 0),
            Tag::Code => Value::Code(self.number(kind, addr)?),
            Tag::Ptr | Tag::Phys | Tag::Hex => {
                Value::Addr(self.number(kind, addr)?, kind.type_name.clone())
            }
            Tag::Chars => {
                let mut bytes = vec![0; u64::from(kind.size).min(MAX_TEXT) as usize];
                space.read(addr, &mut bytes)?;
                let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
                Value::Text(String::from_utf8_lossy(&bytes[..end]).into_owned())
            }
            Tag::Text => {
                let (ptr, len) = (space.read_u64(addr)?, space.read_u64(addr.wrapping_add(8))?);
                let mut bytes = vec![0; len.min(MAX_TEXT) as usize];
                space.read(ptr, &mut bytes)?;
                Value::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            Tag::Enum => {
                // Whether the number is signed is the enum's secret: both readings are looked up.
                let raw = self.number(kind, addr)?;
                let signed = self.number(&Kind { tag: Tag::Int, ..kind.clone() }, addr)? as i64;
                let ty = self.kernel.note().get(&kind.type_name)?;
                match ty.value_name(raw as i64) {
                    Some(name) => Value::Enum(raw as i64, Some(name.to_owned())),
                    None => Value::Enum(signed, ty.value_name(signed).map(str::to_owned)),
                }
            }
            Tag::Flags => {
                let bits = self.number(kind, addr)?;
                let (names, rest) = self.kernel.note().get(&kind.type_name)?.flag_names(bits);
                Value::Flags(names.into_iter().map(str::to_owned).collect(), rest)
            }
            Tag::Link => Value::Link(space.read_u64(addr)? != 0),
            Tag::List => {
                let mut count = 0;
                for item in self.list_at("list", kind, addr)? {
                    item?;
                    count += 1;
                }
                Value::List(kind.type_name.clone(), count)
            }
            Tag::Array | Tag::Vec => {
                /// Elements shown of one field.
                const SHOWN: usize = 64;
                let (elem, addrs) = self.elements_of("array", kind, addr)?;
                if matches!(elem.tag, Tag::Struct | Tag::Array | Tag::Vec | Tag::List) {
                    return Ok(Value::Opaque(format!("{} elements", addrs.len())));
                }
                let values: Result<_> =
                    addrs.into_iter().take(SHOWN).map(|a| self.value_of(&elem, a)).collect();
                Value::Array(values?)
            }
            Tag::Struct => {
                Value::Struct(Object::new(self.kernel, &kind.type_name, addr)?.values_nested(1)?)
            }
            Tag::Opaque => Value::Opaque(kind.type_name.clone()),
        })
    }
}

/// The elements of a circular list in guest memory.
pub struct List<'k> {
    kernel: &'k Kernel<'k>,
    ty: Rc<Type>,
    offset: u64,
    head: u64,
    at: u64,
    left: usize,
}

impl<'k> List<'k> {
    /// The list with its head at `head`, of `type_name` linked through the field `member`.
    pub fn new(kernel: &'k Kernel<'k>, head: u64, type_name: &str, member: &str) -> Result<Self> {
        let ty = kernel.note().get(type_name)?.clone();
        // The link's offset, found as that of a field of a structure at address 0.
        let offset = Object { kernel, ty: ty.clone(), addr: 0 }.addr_of(member)?;
        Ok(Self { kernel, ty, offset, head, at: head, left: MAX_LIST })
    }

    fn damaged(&mut self) -> Option<Result<Object<'k>>> {
        self.left = 0;
        Some(Err(Error::Damaged { what: format!("a list of `{}`", self.ty.name) }))
    }
}

impl<'k> Iterator for List<'k> {
    type Item = Result<Object<'k>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let space = self.kernel.space();
        let next = match space.read_u64(self.at) {
            Ok(next) => next,
            Err(e) => {
                self.left = 0;
                return Some(Err(e.into()));
            }
        };
        if next == self.head || (next == 0 && self.at == self.head) {
            self.left = 0;
            return None;
        }
        // Each link has one predecessor, so a walk that checks it cannot go in circles.
        if space.read_u64(next.wrapping_add(8)) != Ok(self.at) {
            return self.damaged();
        }
        self.left -= 1;
        if self.left == 0 {
            return self.damaged();
        }
        self.at = next;
        let addr = next.wrapping_sub(self.offset);
        Some(Ok(Object { kernel: self.kernel, ty: self.ty.clone(), addr }))
    }
}
