//! Choices among endpoints that are described, not real.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

struct Fake {
    is_up: bool,
    busy: usize,
    seed: u64,
}

impl Candidate for Fake {
    fn is_up(&self) -> bool {
        self.is_up
    }
    fn busy(&self) -> usize {
        self.busy
    }
    fn seed(&self) -> u64 {
        self.seed
    }
}

fn fakes(count: usize, down: &[usize]) -> Vec<Arc<Fake>> {
    (0..count)
        .map(|number| {
            Arc::new(Fake {
                is_up: !down.contains(&number),
                busy: 0,
                seed: hash(&format!("http://registry-{number}.internal:5000")),
            })
        })
        .collect()
}

fn of_upload(all: &[Arc<Fake>], repository: &str) -> Option<usize> {
    choose::<Fake>(all, EndpointSet::default(), Some(repository))
}

#[test]
fn the_hash_is_fixed() {
    // The published vectors of FNV-1a; and what gates in service have agreed on.
    assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
    let all = fakes(3, &[]);
    let chosen: Vec<_> = ["team/app", "library/alpine", "a", "b", "c"]
        .iter()
        .map(|repository| of_upload(&all, repository).unwrap())
        .collect();
    assert_eq!(chosen, CHOSEN);
}

const CHOSEN: [usize; 5] = [0, 0, 2, 1, 1];

#[test]
fn repositories_are_spread_evenly() {
    let all = fakes(4, &[]);
    let mut counts = [0; 4];
    for number in 0..4000 {
        counts[of_upload(&all, &format!("team/app-{number}")).unwrap()] += 1;
    }
    assert!(
        counts.iter().all(|count| (850..1150).contains(count)),
        "{counts:?}"
    );
}

proptest! {
    #[test]
    fn only_the_repositories_of_a_dead_endpoint_move(
        count in 2usize..12,
        dead in 0usize..12,
        repositories in prop::collection::vec("[a-z0-9]{1,8}(/[a-z0-9-]{1,8}){0,2}", 1..50),
    ) {
        let dead = dead % count;
        let (before, after) = (fakes(count, &[]), fakes(count, &[dead]));
        for repository in &repositories {
            let (was, is) = (of_upload(&before, repository), of_upload(&after, repository));
            prop_assert_ne!(is, Some(dead));
            if was != Some(dead) {
                prop_assert_eq!(was, is);
            }
            // In another order, the same one.
            let reversed: Vec<_> = before.iter().rev().cloned().collect();
            prop_assert_eq!(of_upload(&reversed, repository), was.map(|was| count - 1 - was));
        }
    }
}

#[test]
fn the_less_busy_of_two_gets_it_and_the_busiest_of_three_never() {
    let busy = |busy| {
        Arc::new(Fake {
            is_up: true,
            busy,
            seed: 0,
        })
    };
    let all = [busy(9), busy(1), busy(5)];
    let mut counts = [0; 3];
    for _ in 0..600 {
        counts[choose::<Fake>(&all, EndpointSet::default(), None).unwrap()] += 1;
    }
    assert_eq!(counts[0], 0);
    assert!(counts[1] > counts[2] && counts[2] > 0, "{counts:?}");
}

#[test]
fn of_equals_each_has_its_turn() {
    for count in 2..=5 {
        let all = fakes(count, &[]);
        let mut counts = vec![0; count];
        for _ in 0..500 * count {
            counts[choose::<Fake>(&all, EndpointSet::default(), None).unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|times| (350..650).contains(times)),
            "{counts:?}"
        );
    }
}

#[test]
fn one_that_is_down_is_passed_over_until_there_is_no_other() {
    let all = fakes(2, &[0]);
    for repository in [None, Some("a"), Some("b"), Some("c")] {
        let mut tried = EndpointSet::default();
        assert_eq!(choose::<Fake>(&all, tried, repository), Some(1));
        tried.add(1);
        assert_eq!(choose::<Fake>(&all, tried, repository), Some(0));
        tried.add(0);
        assert_eq!(choose::<Fake>(&all, tried, repository), None);
    }
    let none = fakes(3, &[0, 1, 2]);
    assert!(choose::<Fake>(&none, EndpointSet::default(), None).is_some());
    assert!(of_upload(&none, "a").is_some());
    assert_eq!(
        choose::<Fake>(&fakes(1, &[0]), EndpointSet::default(), None),
        Some(0)
    );
}

#[test]
fn the_last_number_there_can_be_is_marked_as_the_first() {
    let mut all = EndpointSet::first(MOST);
    for number in 0..MOST {
        assert!(all.has(number));
        all.remove(number);
    }
    assert_eq!(all, EndpointSet::default());
    assert_eq!(EndpointSet::first(0), EndpointSet::default());
}
