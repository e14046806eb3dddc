//! The decision whether a user may perform an operation. The matching grant is the last, so that all grants are compared.

use std::hint::black_box;

use criterion::Criterion;
use tidegate::access::{Grant, Grants, Pattern, Subjects};
use tidegate::registry::Action;

pub(crate) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("grants");
    for count in [1, 100, 1000] {
        let grants = Grants::new((0..count).map(grant));
        let user = format!("user{}", count - 1);
        let repository = format!("team{}/app/web", count - 1);
        let is_allowed = || {
            grants.allows(
                Some(user.as_str()),
                Action::Pull,
                Some(black_box(&repository)),
            )
        };
        assert!(is_allowed(), "of {count}");
        group.bench_function(format!("a user each, {count}"), |bencher| {
            bencher.iter(is_allowed)
        });

        let grants = Grants::new((0..count).map(for_everyone));
        let is_allowed = || {
            grants.allows(
                Some(user.as_str()),
                Action::Pull,
                Some(black_box(&repository)),
            )
        };
        assert!(is_allowed(), "of {count}");
        group.bench_function(format!("@users, {count}"), |bencher| {
            bencher.iter(is_allowed)
        });
    }
    group.finish();
}

/// A grant to a user with a name of its own.
fn grant(number: usize) -> Grant {
    let users = [format!("user{number}")].into();
    Grant {
        subjects: Subjects {
            users,
            ..Subjects::default()
        },
        ..for_everyone(number)
    }
}

/// A grant whose patterns are compared with every request.
fn for_everyone(number: usize) -> Grant {
    Grant {
        subjects: Subjects {
            verified: true,
            ..Subjects::default()
        },
        patterns: vec![Pattern::parse(&format!("team{number}/**")).unwrap()],
        actions: [Action::Push].into_iter().collect(),
        file: None,
        line: number + 1,
    }
}
