//! The protobuf wire format: reading fields one after another, and writing them. No copy is made of what is read.

use super::ProtobufError;

/// A field's value as the wire has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Field<'a> {
    /// # Errors
    /// The field is no string.
    pub fn text(self) -> Result<&'a str, ProtobufError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtobufError::Wire("a string is not UTF-8"))
    }

    /// # Errors
    /// The field has another wire type.
    pub fn bytes(self) -> Result<&'a [u8], ProtobufError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtobufError::Wire("wrong wire type")),
        }
    }

    /// An integer; negative ones travel as ten bytes.
    ///
    /// # Errors
    /// The field has another wire type.
    pub fn int(self) -> Result<i64, ProtobufError> {
        match self {
            Self::Varint(n) => Ok(n.cast_signed()),
            _ => Err(ProtobufError::Wire("wrong wire type")),
        }
    }
}

/// Reads the fields of one message.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value; None at the end.
    ///
    /// # Errors
    /// The message is cut off or malformed.
    #[expect(clippy::should_implement_trait, reason = "an iterator over results would be read with the same `?`")]
    pub fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| ProtobufError::Wire("a field number is too large"))?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Wire("a length is too large"))?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(ProtobufError::Wire("unknown wire type")),
        };
        if number == 0 { Err(ProtobufError::Wire("field number 0")) } else { Ok(Some((number, field))) }
    }

    /// The next number of a packed list; None at the end.
    ///
    /// # Errors
    /// The list is cut off.
    pub fn packed(&mut self) -> Result<Option<u64>, ProtobufError> {
        if self.rest.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Wire("a number is too long"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ProtobufError::Wire("the message is cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        Ok(*self.take(N)?.first_chunk().expect("take returns what it was asked for"))
    }
}

/// Writes the fields of one message.
#[derive(Default)]
pub struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub fn int(&mut self, number: u32, value: i64) {
        self.varint(u64::from(number) << 3);
        self.varint(value.cast_unsigned());
    }

    pub fn double(&mut self, number: u32, value: f64) {
        self.varint(u64::from(number) << 3 | 1);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A string, bytes, or a message that has been written.
    pub fn put(&mut self, number: u32, value: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// A message inside this one.
    pub fn message(&mut self, number: u32, fill: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        fill(&mut inner);
        self.put(number, &inner.bytes);
    }
}
