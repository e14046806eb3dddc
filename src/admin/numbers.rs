//! All numbers of the gate as text.
//!
//! Called by `answer` for each scrape, on a thread that nobody waits for but the one who scrapes. Everything is read by
//! atomics, or under locks that no request waits for.

use std::fmt;

use crate::metrics::{ExpositionFormat, Family, Kind, Value, write as write_families};
use crate::state::ServerState;

mod gate;
mod process;
mod sites;
mod upstreams;

/// As text of this form.
pub(super) fn write(gate: &ServerState, form: ExpositionFormat) -> Result<String, fmt::Error> {
    let snapshot = gate.snapshot();
    let mut families = sites::families(&snapshot);
    families.extend(upstreams::families(&snapshot));
    families.extend(gate::families(gate, &snapshot));
    families.extend(process::families());
    write_families(families, form)
}

type Sample = (Vec<(&'static str, String)>, Value);

/// A family that grows sample by sample.
fn family(kind: Kind, name: &'static str, help: &'static str, samples: Vec<Sample>) -> Family {
    Family {
        name,
        help,
        kind,
        samples,
    }
}

/// A family of one number without labels.
fn single(kind: Kind, name: &'static str, help: &'static str, value: Value) -> Family {
    family(kind, name, help, vec![(Vec::new(), value)])
}

fn whole(value: usize) -> Value {
    Value::Whole(value as u64)
}
