//! `Filter`: the label and field selectors of a list or watch, ready to be asked of many objects.

use crate::kinds::{Object, Resource};
use crate::meta::{FieldSelector, Selector, Status};

/// What a term of a field selector looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    /// Of the kind's own, by its place.
    Own(usize),
}

#[derive(Clone, Debug)]
struct Term {
    field: Field,
    value: String,
    equal: bool,
}

/// Both selectors of a request. Objects asked about must be of the resource that it was made for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    labels: Selector,
    terms: Vec<Term>,
    reads_own: bool,
}

impl Filter {
    /// # Errors
    /// 400: a selector that cannot be parsed, or a field that the kind does not offer.
    pub fn parse(resource: &dyn Resource, labels: &str, fields: &str) -> Result<Self, Status> {
        let labels = Selector::parse(labels).map_err(Status::bad_request)?;
        let mut terms = Vec::new();
        for term in FieldSelector::parse(fields).map_err(Status::bad_request)?.0 {
            let field = field(resource, &term.field)?;
            terms.push(Term { field, value: term.value, equal: term.equal });
        }
        let reads_own = terms.iter().any(|t| matches!(t.field, Field::Own(_)));
        Ok(Self { labels, terms, reads_own })
    }

    /// True if it lets everything pass.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.terms.is_empty()
    }

    /// The one name that can pass, if the fields say so.
    pub fn name(&self) -> Option<&str> {
        self.terms.iter().find(|t| t.field == Field::Name && t.equal).map(|t| t.value.as_str())
    }

    pub fn matches(&self, object: &Object) -> bool {
        let meta = object.meta();
        if !self.labels.matches(meta.labels.as_ref()) {
            return false;
        }
        let own = if self.reads_own { object.resource().selectable(object.any()) } else { Vec::new() };
        self.terms.iter().all(|term| {
            let value = match term.field {
                Field::Name => meta.name.as_deref(),
                Field::Namespace => meta.namespace.as_deref(),
                Field::Own(at) => own.get(at).map(String::as_str),
            };
            (value.unwrap_or_default() == term.value) == term.equal
        })
    }
}

fn field(resource: &dyn Resource, name: &str) -> Result<Field, Status> {
    let n = resource.names();
    match name {
        "metadata.name" => return Ok(Field::Name),
        "metadata.namespace" if n.namespaced => return Ok(Field::Namespace),
        _ => {}
    }
    let own = resource.selectable_names();
    if let Some(at) = own.iter().position(|f| *f == name) {
        return Ok(Field::Own(at));
    }
    let why = if own.is_empty() {
        format!("\"{name}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {name}")
    };
    Err(Status::bad_request(why))
}
