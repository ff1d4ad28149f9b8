//! `#[derive(Described)]`: writes a structure's or enum's descriptor for the layout note.
//!
//! Structures: every field is emitted with its name, its `offset_of!` and its kind. A field's kind comes
//! from the `DescribeField` implementation of its type; a type that has none is emitted as opaque bytes.
//! Field attributes say more than the type does:
//!
//! | attribute | meaning |
//! | --- | --- |
//! | `#[described(skip)]` | leave the field out |
//! | `#[described(name = "x")]` | another name (also on the type itself) |
//! | `#[described(list = "Task::tasks")]` | head of a list of `Task`, linked through its field `tasks` |
//! | `#[described(as = "KIND")]` | `uint int bool chars seqcount link opaque text code phys hex`, `ptr [T]`, `struct T`, `enum T`, `flags T`, `list T::member`, `vec KIND`, and `array KIND` on a `[T; N]` |
//!
//! Types are referred to by name only, so the named type need not be in scope.
//!
//! Enums: an explicit `repr` is required, since a discriminant that the compiler may choose is no format,
//! and variants carry no data.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Error, Field, Fields, LitStr, Member, Result, Type};

/// See the crate's documentation.
#[proc_macro_derive(Described, attributes(described))]
pub fn derive_described(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// What `#[described(…)]` said.
#[derive(Default)]
struct Options {
    skip: bool,
    name: Option<String>,
    kind: Option<LitStr>,
}

impl Options {
    fn parse(attrs: &[Attribute]) -> Result<Self> {
        let mut options = Self::default();
        for attr in attrs.iter().filter(|a| a.path().is_ident("described")) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("skip") {
                    options.skip = true;
                } else if meta.path.is_ident("name") {
                    options.name = Some(meta.value()?.parse::<LitStr>()?.value());
                } else if meta.path.is_ident("as") {
                    options.kind = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("list") {
                    let text: LitStr = meta.value()?.parse()?;
                    options.kind =
                        Some(LitStr::new(&format!("list {}", text.value()), text.span()));
                } else {
                    return Err(meta.error("expected `skip`, `name`, `as` or `list`"));
                }
                Ok(())
            })?;
        }
        Ok(options)
    }
}

fn expand(input: &DeriveInput) -> Result<TokenStream> {
    if let Some(param) = input.generics.type_params().next() {
        return Err(Error::new(
            param.span(),
            "a described type has one layout: no type parameters",
        ));
    }
    let options = Options::parse(&input.attrs)?;
    let ident = &input.ident;
    let name = options.name.unwrap_or_else(|| ident.to_string());
    let (class, field_kind, fields, values) = match &input.data {
        Data::Struct(data) => {
            (quote!(Struct), quote!(Struct), describe_fields(&input.ident, &data.fields)?, vec![])
        }
        Data::Enum(data) => {
            require_repr(input)?;
            let mut values = vec![];
            for variant in &data.variants {
                if !matches!(variant.fields, Fields::Unit) {
                    return Err(Error::new(variant.span(), "a described enum carries no data"));
                }
                let (variant, text) = (&variant.ident, variant.ident.to_string());
                values.push(quote!(__layout::ValueDesc::new(#text, #ident::#variant as i64)));
            }
            (quote!(Enum), quote!(Enum), vec![], values)
        }
        Data::Union(_) => {
            return Err(Error::new(ident.span(), "a union has no description"));
        }
    };
    Ok(quote! {
        const _: () = {
            use ::belljar_abi::layout as __layout;
            #[allow(unused_imports, reason = "no field may need it")]
            use __layout::ProbeFallback as _;
            static __FIELDS: &[__layout::FieldDesc] = &[#(#fields),*];
            static __VALUES: &[__layout::ValueDesc] = &[#(#values),*];
            static __DESC: __layout::TypeDesc = __layout::TypeDesc {
                name: __layout::Str::new(#name),
                size: ::core::mem::size_of::<#ident>() as u64,
                class: __layout::TypeClass::#class as u32,
                version: __layout::VERSION,
                fields: __layout::Table::new(__FIELDS),
                values: __layout::Table::new(__VALUES),
            };
            #[used]
            #[cfg(target_os = "none")]
            #[unsafe(link_section = ".belljar.layout")]
            static __ENTRY: &__layout::TypeDesc = &__DESC;
            #[cfg(target_os = "linux")]
            const _: () = {
                static __NODE: __layout::registry::Node =
                    __layout::registry::Node::new(&__DESC);
                extern "C" fn __register() {
                    __layout::registry::add(&__NODE);
                }
                #[used]
                #[unsafe(link_section = ".init_array")]
                static __ENTRY: extern "C" fn() = __register;
            };
            impl __layout::Described for #ident {
                const NAME: &'static str = #name;
                fn descriptor() -> &'static __layout::TypeDesc {
                    &__DESC
                }
            }
            impl __layout::DescribeField for #ident {
                const KIND: __layout::Kind = __layout::Kind::of_type(
                    __layout::Tag::#field_kind, #name, ::core::mem::size_of::<#ident>());
            }
        };
    })
}

/// Fails unless the enum has `#[repr(u8 … i64)]`.
fn require_repr(input: &DeriveInput) -> Result<()> {
    const INTEGERS: [&str; 10] =
        ["u8", "u16", "u32", "u64", "usize", "i8", "i16", "i32", "i64", "isize"];
    let mut found = false;
    for attr in input.attrs.iter().filter(|a| a.path().is_ident("repr")) {
        attr.parse_nested_meta(|meta| {
            found |= INTEGERS.iter().any(|i| meta.path.is_ident(i));
            Ok(())
        })?;
    }
    if found {
        Ok(())
    } else {
        Err(Error::new(input.ident.span(), "a described enum needs an explicit #[repr(u8..i64)]"))
    }
}

fn describe_fields(owner: &syn::Ident, fields: &Fields) -> Result<Vec<TokenStream>> {
    let mut described = vec![];
    for (index, field) in fields.iter().enumerate() {
        let options = Options::parse(&field.attrs)?;
        if options.skip {
            continue;
        }
        let member = match &field.ident {
            Some(ident) => Member::Named(ident.clone()),
            None => Member::Unnamed(index.into()),
        };
        let name = options.name.clone().unwrap_or_else(|| match &field.ident {
            Some(ident) => ident.to_string().trim_start_matches("r#").to_string(),
            None => index.to_string(),
        });
        let (kind, delta) = field_kind(field, &options)?;
        described.push(quote_spanned! { field.ty.span()=>
            __layout::FieldDesc {
                name: __layout::Str::new(#name),
                offset: (::core::mem::offset_of!(#owner, #member) + #delta) as u64,
                kind: #kind,
            }
        });
    }
    Ok(described)
}

/// The type itself, without the group that a `macro_rules!` puts around a `$t:ty`.
fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => bare(&group.elem),
        Type::Paren(paren) => bare(&paren.elem),
        ty => ty,
    }
}

/// `T` of `Array<T>`.
fn type_argument(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let syn::PathArguments::AngleBracketed(arguments) = &path.path.segments.last()?.arguments
    else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        syn::GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// The expressions of the field's kind and of the offset of the value inside the field.
fn field_kind(field: &Field, options: &Options) -> Result<(TokenStream, TokenStream)> {
    let ty = bare(&field.ty);
    if let Some(text) = &options.kind {
        let words: Vec<String> = text.value().split_whitespace().map(str::to_string).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let kind = parse_kind(&words, Some(ty)).map_err(|why| Error::new(text.span(), why))?;
        // A wrapper such as a lock still says where its value begins, around an array's elements too.
        let wrapper = match ty {
            Type::Array(array) => &*array.elem,
            ty => ty,
        };
        return Ok((kind, quote!(__layout::Probe::<#wrapper>::DELTA)));
    }
    let text = quote!(#ty).to_string().replace(' ', "");
    let kind = match ty {
        // A pointer to something undescribed is still a pointer.
        Type::Ptr(_) => quote! {
            match __layout::Probe::<#ty>::KIND {
                kind if kind.tag == __layout::Tag::Opaque as u32
                    && ::core::mem::size_of::<#ty>() == 8 =>
                {
                    __layout::Kind::plain(__layout::Tag::Ptr, 8)
                }
                kind => kind,
            }
        },
        _ => quote!(__layout::Probe::<#ty>::KIND.or_named(#text)),
    };
    Ok((kind, quote!(__layout::Probe::<#ty>::DELTA)))
}

/// Parses the text of `as = "…"`. `ty` is the type it stands for, if there is one in the source.
fn parse_kind(words: &[&str], ty: Option<&Type>) -> std::result::Result<TokenStream, String> {
    let size = match ty {
        Some(ty) => quote!(__layout::Probe::<#ty>::SIZE),
        None => quote!(0),
    };
    if ty.is_none() && matches!(words, [_]) && words != ["ptr"] {
        return Err(format!("`vec {}` stands on a field of type Array<T>", words[0]));
    }
    let plain = |tag: &str| {
        let tag = quote::format_ident!("{tag}");
        quote!(__layout::Kind::plain(__layout::Tag::#tag, #size))
    };
    let of_type = |tag: &str, name: &str| {
        let tag = quote::format_ident!("{tag}");
        quote!(__layout::Kind::of_type(__layout::Tag::#tag, #name, #size))
    };
    Ok(match words {
        ["uint"] => plain("Uint"),
        ["int"] => plain("Int"),
        ["bool"] => plain("Bool"),
        ["chars"] => plain("Chars"),
        ["seqcount"] => plain("SeqCount"),
        ["link"] => plain("Link"),
        ["opaque"] => plain("Opaque"),
        ["text"] => plain("Text"),
        ["code"] => plain("Code"),
        ["phys"] => plain("Phys"),
        ["hex"] => plain("Hex"),
        ["ptr"] => quote!(__layout::Kind::plain(__layout::Tag::Ptr, 8)),
        ["ptr", name] => quote!(__layout::Kind::of_type(__layout::Tag::Ptr, #name, 8)),
        ["struct", name] => of_type("Struct", name),
        ["enum", name] => of_type("Enum", name),
        ["flags", name] => of_type("Flags", name),
        ["list", path] => {
            let (name, member) =
                path.split_once("::").ok_or("a list is `list Type::link_field`")?;
            quote!(__layout::Kind::list(#name, #member, 16))
        }
        ["vec", elem @ ..] => {
            let item = ty.map(bare).and_then(type_argument);
            let elem = parse_kind(elem, item)?;
            let stride = match item {
                Some(item) => quote!(::core::mem::size_of::<#item>()),
                None => quote!(0),
            };
            quote!({ static __ELEM: __layout::Kind = #elem; __layout::Kind::vec(&__ELEM, #stride) })
        }
        ["array", elem @ ..] => {
            let Some(Type::Array(array)) = ty.map(bare) else {
                return Err("`array` stands on a field of type [T; N]".into());
            };
            let (item, len) = (&array.elem, &array.len);
            let elem = parse_kind(elem, Some(item))?;
            quote!({
                static __ELEM: __layout::Kind = #elem;
                __layout::Kind::array(&__ELEM, #len, ::core::mem::size_of::<#item>())
            })
        }
        _ => return Err(format!("`{}` is no kind", words.join(" "))),
    })
}
