//! Facts about the API's built-in types that JSON alone does not show: protobuf numbers, which fields Go omits when empty,
//! how patches merge a list, which list is a set or a map. `types.txt` holds them; the header of `Schema::parse` says how
//! it is written, and `docs/guides/schema.md` how it was made.
//!
//! May import: meta. One copy for the process, parsed on first use; names are slices of the text.

use std::collections::HashMap;
use std::sync::OnceLock;

const TEXT: &str = include_str!("types.txt");

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Bool,
    Int,
    Double,
    /// base64 in JSON.
    Bytes,
    /// A list of strings that protobuf wraps in a message (`ExtraValue`).
    Items,
    Quantity,
    Time,
    MicroTime,
    Duration,
    IntOrString,
    /// Any JSON (RawExtension, FieldsV1, JSON).
    Raw,
    PropsOrBool,
    PropsOrArray,
    PropsOrStrings,
    /// A struct, by its place in the schema.
    Object(usize),
    List(Box<Type>),
    /// String keys.
    Map(Box<Type>),
}

/// One JSON field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// The JSON name; empty for an embedded struct without a tag of its own.
    pub name: &'static str,
    /// The protobuf number; 0 if the field does not travel in protobuf.
    pub number: u32,
    pub ty: Type,
    pub omit_empty: bool,
    /// The fields of this struct are the owner's own in JSON.
    pub inline: bool,
    pub pointer: bool,
    pub merge: Merge,
}

/// How lists and maps merge: strategic merge patch (strategy, merge key) and server-side apply (the rest).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// `merge`, `retainKeys`, `merge,retainKeys`, `replace` or empty.
    pub strategy: &'static str,
    pub merge_key: &'static str,
    /// `map`, `set`, `atomic` or empty (which means atomic).
    pub list_type: &'static str,
    /// Comma-separated.
    pub list_map_keys: &'static str,
    pub atomic_map: bool,
}

impl Merge {
    pub fn merges(&self) -> bool {
        self.strategy.split(',').any(|s| s == "merge")
    }
    pub fn replaces(&self) -> bool {
        self.strategy.split(',').any(|s| s == "replace")
    }
    pub fn keys(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.list_map_keys.split(',').filter(|k| !k.is_empty())
    }
}

/// A struct of the API.
#[derive(Clone, Debug)]
pub struct TypeDef {
    /// As OpenAPI names it, without the prefix that `full_name` puts back.
    pub name: &'static str,
    /// `group/version/kind` if it is a kind (the core group is empty).
    pub kind: Option<&'static str>,
    pub atomic: bool,
    pub fields: Vec<Field>,
}

/// All types.
pub struct Schema {
    types: Vec<TypeDef>,
    /// `Type::Object` of each type, to be lent.
    objects: Vec<Type>,
    by_name: HashMap<&'static str, usize>,
    by_kind: HashMap<&'static str, usize>,
}

/// The process's schema.
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| Schema::parse(TEXT))
}

impl Schema {
    /// A line without indent opens a type: its name, then `g=group/version/kind` for a kind, `m=atomic` for a map that is
    /// owned whole. An indented line is a field: JSON name (`-` if none), protobuf number, type (`[]` list of, `{}` map
    /// of), flags (`o` omitempty, `z` omitzero, `i` inline, `p` pointer, `-` none), then `s=` strategy, `k=` merge key,
    /// `l=` list type, `lk=` list map keys, `m=` map type.
    fn parse(text: &'static str) -> Self {
        let heads = text.lines().filter(|l| !l.starts_with(' ')).filter_map(|l| l.split(' ').next());
        let by_name: HashMap<&'static str, usize> = heads.enumerate().map(|(i, name)| (name, i)).collect();
        let mut types: Vec<TypeDef> = Vec::with_capacity(by_name.len());
        let mut by_kind = HashMap::new();
        for line in text.lines() {
            if let Some(field) = line.strip_prefix(' ') {
                if let (Some(owner), Some(field)) = (types.last_mut(), parse_field(field, &by_name)) {
                    owner.fields.push(field);
                }
                continue;
            }
            let mut words = line.split(' ');
            let mut def = TypeDef { name: words.next().unwrap_or_default(), kind: None, atomic: false, fields: Vec::new() };
            for word in words {
                match word.split_once('=') {
                    Some(("g", kind)) => {
                        def.kind = Some(kind);
                        by_kind.insert(kind, types.len());
                    }
                    Some(("m", how)) => def.atomic = how == "atomic",
                    _ => {}
                }
            }
            types.push(def);
        }
        let objects = (0..types.len()).map(Type::Object).collect();
        Self { types, objects, by_name, by_kind }
    }

    pub fn get(&self, at: usize) -> &TypeDef {
        &self.types[at]
    }

    /// By a name as in `types.txt` or in OpenAPI's full form.
    pub fn by_name(&self, name: &str) -> Option<&TypeDef> {
        let short = name.strip_prefix("io.k8s.api.").map(str::to_owned);
        let short = short.or_else(|| name.strip_prefix("io.k8s.apimachinery.pkg.").map(|rest| format!("~{rest}")));
        self.by_name.get(short.as_deref().unwrap_or(name)).map(|&at| &self.types[at])
    }

    /// The type of a kind, for example ("apps", "v1", "Deployment").
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Type> {
        self.by_kind.get(format!("{group}/{version}/{kind}").as_str()).map(|&at| &self.objects[at])
    }

    /// The name in `types.txt` of a kind's type.
    pub fn by_kind_name(&self, group: &str, version: &str, kind: &str) -> Option<&'static str> {
        self.by_kind.get(format!("{group}/{version}/{kind}").as_str()).map(|&at| self.types[at].name)
    }

    /// A field by its JSON name, looked for in inlined structs too.
    pub fn field<'a>(&'a self, owner: &'a TypeDef, name: &str) -> Option<&'a Field> {
        owner.fields.iter().find_map(|f| match (f.inline, &f.ty) {
            (true, Type::Object(at)) => self.field(self.get(*at), name),
            _ => (f.name == name).then_some(f),
        })
    }

    #[cfg(test)]
    pub(crate) fn types(&self) -> &[TypeDef] {
        &self.types
    }
}

/// The OpenAPI name of a type whose name in `types.txt` is `short`.
pub fn full_name(short: &str) -> String {
    match short.strip_prefix('~') {
        Some(rest) => format!("io.k8s.apimachinery.pkg.{rest}"),
        None if short.starts_with("io.k8s.") => short.to_owned(),
        None => format!("io.k8s.api.{short}"),
    }
}

fn parse_field(line: &'static str, names: &HashMap<&'static str, usize>) -> Option<Field> {
    let mut words = line.split(' ');
    let (name, number, ty, flags) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let mut merge = Merge::default();
    for word in words {
        match word.split_once('=')? {
            ("s", v) => merge.strategy = v,
            ("k", v) => merge.merge_key = v,
            ("l", v) => merge.list_type = v,
            ("lk", v) => merge.list_map_keys = v,
            ("m", v) => merge.atomic_map = v == "atomic",
            _ => {}
        }
    }
    Some(Field {
        name: if name == "-" { "" } else { name },
        number: number.parse().ok()?,
        ty: parse_type(ty, names)?,
        omit_empty: flags.contains(['o', 'z']),
        inline: flags.contains('i'),
        pointer: flags.contains('p'),
        merge,
    })
}

fn parse_type(text: &str, names: &HashMap<&'static str, usize>) -> Option<Type> {
    if let Some(item) = text.strip_prefix("[]") {
        return Some(Type::List(Box::new(parse_type(item, names)?)));
    }
    if let Some(value) = text.strip_prefix("{}") {
        return Some(Type::Map(Box::new(parse_type(value, names)?)));
    }
    Some(match text {
        "string" => Type::String,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "items" => Type::Items,
        "quantity" => Type::Quantity,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "duration" => Type::Duration,
        "intorstring" => Type::IntOrString,
        "raw" => Type::Raw,
        "propsorbool" => Type::PropsOrBool,
        "propsorarray" => Type::PropsOrArray,
        "propsorstrings" => Type::PropsOrStrings,
        name => Type::Object(*names.get(name)?),
    })
}

/// A place in a document, with what the schema knows of it: nothing at all inside custom resources and raw JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    ty: Option<&'static Type>,
    merge: Merge,
}

impl Shape {
    /// A document of this type.
    pub fn of(ty: Option<&'static Type>) -> Self {
        Self { ty, merge: Merge::default() }
    }

    /// A document of a built-in kind; knows nothing if the kind is none.
    pub fn of_kind(group: &str, version: &str, kind: &str) -> Self {
        Self::of(schema().kind(group, version, kind))
    }

    /// The field `key` of this object.
    #[must_use]
    pub fn child(&self, key: &str) -> Shape {
        match self.ty {
            Some(Type::Object(at)) => {
                let schema = schema();
                match schema.field(schema.get(*at), key) {
                    Some(field) => Shape { ty: Some(&field.ty), merge: field.merge },
                    None => Shape::default(),
                }
            }
            Some(Type::Map(_)) => self.item(),
            _ => Shape::default(),
        }
    }

    /// An item of this list, or a value of this map.
    #[must_use]
    pub fn item(&self) -> Shape {
        let ty = match self.ty {
            Some(Type::List(item) | Type::Map(item)) => Some(&**item),
            _ => None,
        };
        Shape { ty, merge: Merge::default() }
    }

    pub fn merge(&self) -> Merge {
        self.merge
    }

    pub fn ty(&self) -> Option<&'static Type> {
        self.ty
    }

    /// True if server-side apply owns this object as one value.
    pub fn is_atomic_map(&self) -> bool {
        let by_type = match self.ty {
            Some(Type::Object(at)) => schema().get(*at).atomic,
            _ => false,
        };
        by_type || self.merge.atomic_map
    }
}
