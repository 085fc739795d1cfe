//! `$(VAR)` expansion in environment, command, arguments and subPathExpr, as the kubelet does it. Pure.

use std::collections::BTreeMap;

/// Expands by `lookup`; a reference that it does not know stays as it is. `$$` is a dollar sign.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = match after.chars().next() {
            None => {
                out.push('$');
                after
            }
            Some('$') => {
                out.push('$');
                &after[1..]
            }
            Some('(') => match after.find(')') {
                Some(end) => {
                    let name = &after[1..end];
                    out.push_str(&lookup(name).unwrap_or_else(|| format!("$({name})")));
                    &after[end + 1..]
                }
                None => {
                    out.push_str("$(");
                    &after[1..]
                }
            },
            Some(other) => {
                out.push('$');
                out.push(other);
                &after[other.len_utf8()..]
            }
        };
    }
    out.push_str(rest);
    out
}

/// Expands by a container's environment.
pub fn expand_env(text: &str, env: &BTreeMap<String, String>) -> String {
    expand(text, |name| env.get(name).cloned())
}

/// As `expand_env`, but every reference must have a value that is not empty.
///
/// # Errors
/// The kubelet's text for a subPathExpr that cannot be expanded.
pub fn expand_all(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let out = expand(text, |name| {
        let value = env.get(name).filter(|v| !v.is_empty()).cloned();
        if value.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    let missing: Vec<String> = missing.into_inner().into_iter().collect();
    if missing.is_empty() { Ok(out) } else { Err(format!("missing value for {}", missing.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_table() {
        let env: BTreeMap<String, String> =
            [("A", "1"), ("B", "$(A)"), ("EMPTY", ""), ("P.q-r", "x")].map(|(k, v)| (k.into(), v.into())).into();
        for (text, want) in [
            ("", ""),
            ("$(A)", "1"),
            ("a$(A)b$(A)c", "a1b1c"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$(B)", "$(A)"),
            ("$(EMPTY)", ""),
            ("$(missing)", "$(missing)"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("x$", "x$"),
            ("$x", "$x"),
            ("$ü$(A)", "$ü1"),
            ("$()", "$()"),
            ("$(P.q-r)", "x"),
            ("$((A))", "$((A))"),
            ("f(o)$", "f(o)$"),
        ] {
            assert_eq!(expand_env(text, &env), want, "{text:?}");
        }
        assert_eq!(expand_all("a/$(A)", &env).unwrap(), "a/1");
        assert_eq!(expand_all("$(no)/$(EMPTY)", &env).unwrap_err(), "missing value for EMPTY, no");
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_keeps_text_without_dollars(text in "\\PC{0,40}") {
            let out = expand(&text, |_| None);
            if !text.contains('$') {
                proptest::prop_assert_eq!(out, text);
            }
        }
    }
}
