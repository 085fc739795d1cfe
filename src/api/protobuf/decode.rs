//! From wire to JSON by the schema: what Go's JSON of the same object would be, as far as a reader can tell.

use super::wire::{Field as Wire, Reader};
use super::{MAGIC, ProtobufError, value_of_unknown};
use crate::api::schema::{Field, Type, TypeDef, schema};
use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Deeper messages are refused: recursion must end.
pub const MAX_DEPTH: usize = 100;

/// Decodes `message` of type `def` into `out`.
pub fn object(def: &TypeDef, message: &[u8], depth: usize, out: &mut Map<String, Value>) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    let mut fields = Reader::new(message);
    while let Some((number, wire)) = fields.next()? {
        // A number that the schema does not know is a field of a newer API: dropped, as Go's decoder does.
        let Some(field) = def.fields.iter().find(|f| f.number == number) else { continue };
        put(field, wire, depth, out)?;
    }
    Ok(())
}

fn put(field: &Field, wire: Wire<'_>, depth: usize, out: &mut Map<String, Value>) -> Result<(), ProtobufError> {
    match &field.ty {
        Type::Object(at) if field.inline || field.name.is_empty() => object(schema().get(*at), wire.bytes()?, depth + 1, out),
        Type::Object(at) => {
            let slot = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            match slot {
                Value::Object(inner) => object(schema().get(*at), wire.bytes()?, depth + 1, inner),
                _ => Err(ProtobufError::Wire("wrong wire type")),
            }
        }
        Type::List(item) => {
            let Value::Array(list) = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new())) else {
                return Err(ProtobufError::Wire("wrong wire type"));
            };
            push(item, wire, depth, list)
        }
        Type::Map(item) => {
            let Value::Object(map) = out.entry(field.name).or_insert_with(|| Value::Object(Map::new())) else {
                return Err(ProtobufError::Wire("wrong wire type"));
            };
            let (key, value) = entry(item, wire.bytes()?, depth)?;
            map.insert(key, value);
            Ok(())
        }
        ty => {
            let value = scalar(ty, wire, depth)?;
            let empty = value.is_null() || (field.omit_empty && !field.pointer && is_zero(&value));
            if !empty {
                out.insert(field.name.to_owned(), value);
            }
            Ok(())
        }
    }
}

fn push(item: &Type, wire: Wire<'_>, depth: usize, list: &mut Vec<Value>) -> Result<(), ProtobufError> {
    if let (Type::Int | Type::Bool, Wire::Bytes(bytes)) = (item, wire) {
        let mut numbers = Reader::new(bytes);
        while let Some(n) = numbers.packed()? {
            list.push(scalar(item, Wire::Varint(n), depth)?);
        }
        return Ok(());
    }
    list.push(value(item, wire, depth)?);
    Ok(())
}

fn entry(item: &Type, message: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut found) = (String::new(), None);
    let mut fields = Reader::new(message);
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => key = wire.text()?.to_owned(),
            2 => found = Some(value(item, wire, depth)?),
            _ => {}
        }
    }
    Ok((key, found.map_or_else(|| empty(item), Ok)?))
}

/// What an absent value stands for.
fn empty(ty: &Type) -> Result<Value, ProtobufError> {
    match ty {
        Type::Int | Type::Bool => scalar(ty, Wire::Varint(0), 0),
        Type::Double => scalar(ty, Wire::Fixed64(0), 0),
        _ => value(ty, Wire::Bytes(&[]), 0),
    }
}

fn value(ty: &Type, wire: Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
    match ty {
        Type::Object(at) => {
            let mut inner = Map::new();
            object(schema().get(*at), wire.bytes()?, depth + 1, &mut inner)?;
            Ok(Value::Object(inner))
        }
        Type::List(_) | Type::Map(_) => Err(ProtobufError::Wire("a list inside a list")),
        _ => scalar(ty, wire, depth),
    }
}

/// Null stands for an absent value (zero times, empty raw JSON).
fn scalar(ty: &Type, wire: Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match ty {
        Type::String => json!(wire.text()?),
        Type::Bool => json!(wire.int()? != 0),
        Type::Int => json!(wire.int()?),
        Type::Double => match wire {
            Wire::Fixed64(bits) => json!(f64::from_bits(bits)),
            _ => return Err(ProtobufError::Wire("wrong wire type")),
        },
        Type::Bytes => json!(STANDARD.encode(wire.bytes()?)),
        Type::Items => Value::Array(texts(wire.bytes()?, 1)?),
        Type::Quantity => json!(last(wire.bytes()?, 1)?.map_or(Ok("0"), Wire::text)?),
        Type::Time => time(wire.bytes()?, false)?,
        Type::MicroTime => time(wire.bytes()?, true)?,
        Type::Duration => json!(duration(last(wire.bytes()?, 1)?.map_or(Ok(0), Wire::int)?)),
        Type::IntOrString => int_or_string(wire.bytes()?)?,
        Type::Raw => raw(last(wire.bytes()?, 1)?.map_or(Ok(&[][..]), Wire::bytes)?, depth)?,
        Type::PropsOrBool | Type::PropsOrArray | Type::PropsOrStrings => props_or(ty, wire.bytes()?, depth)?,
        Type::Object(_) | Type::List(_) | Type::Map(_) => return Err(ProtobufError::Wire("wrong wire type")),
    })
}

/// The last value of a field: what counts when it is there more than once.
fn last(message: &[u8], wanted: u32) -> Result<Option<Wire<'_>>, ProtobufError> {
    let mut found = None;
    let mut fields = Reader::new(message);
    while let Some((number, wire)) = fields.next()? {
        if number == wanted {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn texts(message: &[u8], wanted: u32) -> Result<Vec<Value>, ProtobufError> {
    let mut out = Vec::new();
    let mut fields = Reader::new(message);
    while let Some((number, wire)) = fields.next()? {
        if number == wanted {
            out.push(json!(wire.text()?));
        }
    }
    Ok(out)
}

fn time(message: &[u8], micros: bool) -> Result<Value, ProtobufError> {
    let seconds = last(message, 1)?.map_or(Ok(0), Wire::int)?;
    let nanos = last(message, 2)?.map_or(Ok(0), Wire::int)?;
    if message.is_empty() || (seconds, nanos) == (0, 0) {
        return Ok(Value::Null);
    }
    let at = Timestamp::from_second(seconds).map_err(|_| ProtobufError::Wire("a time is out of range"))?.to_string();
    if !micros {
        return Ok(json!(at));
    }
    Ok(json!(format!("{}.{:06}Z", at.trim_end_matches('Z'), nanos.clamp(0, 999_999_999) / 1000)))
}

/// Go's text of a duration: `1h2m3.5s`.
fn duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64, name: &str| {
        let text = format!("{}.{:0width$}", value / unit, value % unit, width = unit.ilog10() as usize);
        format!("{sign}{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match n {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => fraction(n, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(n, 1_000_000, "ms"),
        _ => {
            let (hours, minutes) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60);
            let seconds = fraction(n % 60_000_000_000, 1_000_000_000, "s");
            let seconds = seconds.trim_start_matches('-');
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}"),
                (0, _) => format!("{sign}{minutes}m{seconds}"),
                _ => format!("{sign}{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

fn int_or_string(message: &[u8]) -> Result<Value, ProtobufError> {
    if last(message, 1)?.map_or(Ok(0), Wire::int)? == 0 {
        Ok(json!(last(message, 2)?.map_or(Ok(0), Wire::int)?))
    } else {
        Ok(json!(last(message, 3)?.map_or(Ok(""), Wire::text)?))
    }
}

fn raw(bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    if bytes.starts_with(MAGIC) {
        return value_of_unknown(bytes, None, depth + 1);
    }
    serde_json::from_slice(bytes).map_err(|e| ProtobufError::Json(e.to_string()))
}

/// apiextensions' `JSONSchemaPropsOr…`: a schema, or something simpler.
fn props_or(ty: &Type, message: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let Some(def) = schema().by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps") else {
        return Ok(Value::Null);
    };
    let props = |wire: Wire<'_>| {
        let mut inner = Map::new();
        object(def, wire.bytes()?, depth + 1, &mut inner)?;
        Ok::<_, ProtobufError>(Value::Object(inner))
    };
    let at = if *ty == Type::PropsOrBool { 2 } else { 1 };
    if let Some(wire) = last(message, at)? {
        return props(wire);
    }
    match ty {
        Type::PropsOrBool => Ok(json!(last(message, 1)?.map_or(Ok(0), Wire::int)? != 0)),
        Type::PropsOrStrings => Ok(Value::Array(texts(message, 2)?)),
        _ => {
            let mut list = Vec::new();
            let mut fields = Reader::new(message);
            while let Some((number, wire)) = fields.next()? {
                if number == 2 {
                    list.push(props(wire)?);
                }
            }
            Ok(Value::Array(list))
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(_) => false,
    }
}
