//! As much of protobuf and of etcd v3's messages as the generator needs, written and read by hand: encoding costs it next to
//! nothing so.

pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";
pub const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";

pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn int(out: &mut Vec<u8>, field: u64, value: i64) {
    varint(out, field << 3);
    varint(out, value as u64);
}

pub fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Int(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order; stops at what it does not understand.
pub struct Fields<'a>(pub &'a [u8]);

fn read_varint(at: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = at.split_first()?;
        *at = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = read_varint(&mut self.0)?;
        let value = match tag & 7 {
            0 => Value::Int(read_varint(&mut self.0)?),
            2 => {
                let len = read_varint(&mut self.0)? as usize;
                let (value, rest) = self.0.split_at_checked(len)?;
                self.0 = rest;
                Value::Bytes(value)
            }
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

pub fn field_bytes(message: &[u8], wanted: u64) -> Option<&[u8]> {
    Fields(message).find_map(|(field, value)| match value {
        Value::Bytes(bytes) if field == wanted => Some(bytes),
        _ => None,
    })
}

pub fn field_int(message: &[u8], wanted: u64) -> Option<i64> {
    Fields(message).find_map(|(field, value)| match value {
        Value::Int(int) if field == wanted => Some(int as i64),
        _ => None,
    })
}

/// The revision in an answer's header, which is the first field of each.
pub fn revision(answer: &[u8]) -> i64 {
    field_bytes(answer, 1).and_then(|header| field_int(header, 3)).expect("every answer has a header with a revision")
}

pub fn put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    bytes(out, 1, key);
    bytes(out, 2, value);
}

pub fn range(out: &mut Vec<u8>, key: &[u8], end: Option<&[u8]>, limit: i64) {
    bytes(out, 1, key);
    if let Some(end) = end {
        bytes(out, 2, end);
    }
    if limit > 0 {
        int(out, 3, limit);
    }
}

/// An operation of a transaction's success branch that puts.
pub fn success_put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let mut request = Vec::with_capacity(key.len() + value.len() + 16);
    put(&mut request, key, value);
    let mut op = Vec::with_capacity(request.len() + 8);
    bytes(&mut op, 2, &request);
    bytes(out, 2, &op);
}

/// `mod_revision(key) == revision`, and then the put, else a get; as kube-apiserver asks.
pub fn compare_and_put(out: &mut Vec<u8>, key: &[u8], revision: i64, value: &[u8]) {
    const MOD: i64 = 2;
    let mut compare = Vec::with_capacity(key.len() + 16);
    int(&mut compare, 2, MOD);
    bytes(&mut compare, 3, key);
    int(&mut compare, 6, revision);
    bytes(out, 1, &compare);
    success_put(out, key, value);
    let (mut get, mut op) = (Vec::new(), Vec::new());
    range(&mut get, key, None, 0);
    bytes(&mut op, 1, &get);
    bytes(out, 3, &op);
}

/// Asks for a watch on every key that begins with `prefix`.
pub fn watch(out: &mut Vec<u8>, prefix: &[u8]) {
    let mut create = Vec::new();
    bytes(&mut create, 1, prefix);
    bytes(&mut create, 2, &after(prefix));
    bytes(out, 1, &create);
}

/// The end of the range of keys that begin with `prefix`.
pub fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("a prefix") += 1;
    end
}

/// Events in an answer to a watch.
pub fn events(answer: &[u8]) -> usize {
    Fields(answer).filter(|(field, _)| *field == 11).count()
}
