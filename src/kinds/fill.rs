//! Small words for defaulting: filling what is absent, dropping what says nothing.

/// Fills an absent value.
pub fn or<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

/// Fills an absent or empty text.
pub fn text(slot: &mut Option<String>, value: &str) {
    if slot.as_deref().unwrap_or_default().is_empty() {
        *slot = Some(value.to_owned());
    }
}

/// Fills an absent or zero number.
pub fn number(slot: &mut Option<i32>, value: i32) {
    if slot.unwrap_or_default() == 0 {
        *slot = Some(value);
    }
}

/// Drops a value that a Go client could not tell from an absent one (fields that are no pointers there), so that two
/// objects that mean the same are equal.
pub fn drop_zero<T: Default + PartialEq>(slot: &mut Option<T>) {
    if slot.as_ref().is_some_and(|v| *v == T::default()) {
        *slot = None;
    }
}

/// A text that may be absent, as Go has it.
pub fn str_of(slot: &Option<String>) -> &str {
    slot.as_deref().unwrap_or_default()
}
