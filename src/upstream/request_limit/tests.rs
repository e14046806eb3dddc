//! The shares of client networks, the turns of queued requests, and requests that wait for their clients.

use proptest::prelude::*;
use tokio::task::JoinHandle;

use super::*;
use crate::upstream::tests::network;

const SECOND: Duration = Duration::from_secs(1);
const FIRST: &str = "192.0.2.1";
const SECOND_CLIENT: &str = "192.0.2.2";
const NEIGHBOUR: &str = "2001:db8:1:2::1";

fn limit(max_active: usize) -> Arc<RequestLimit> {
    Arc::new(RequestLimit::new(max_active, 1000, SECOND * 60))
}

/// Acquires permits for `address` until it gets no more.
fn fill(limit: &Arc<RequestLimit>, address: &str) -> Vec<RequestPermit> {
    std::iter::from_fn(|| limit.try_acquire(network(address))).collect()
}

/// The same as [`fill`], but each request then waits for its client.
fn fill_stalled(limit: &Arc<RequestLimit>, address: &str) -> Vec<RequestPermit> {
    let permits = fill(limit, address);
    for permit in &permits {
        permit.request().client_wait().begin();
    }
    permits
}

type Queued = JoinHandle<Result<RequestPermit, Error>>;

/// Starts a request of `address`, which is queued if there is no permit.
async fn queued(limit: &Arc<RequestLimit>, address: &str) -> Queued {
    let (own, network) = (Arc::clone(limit), network(address));
    let waiting = tokio::spawn(async move { own.acquire(network).await });
    tokio::task::yield_now().await;
    waiting
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

fn assert_unused(limit: &RequestLimit) {
    let state = limit.state.lock();
    for shares in [&state.active, &state.detached] {
        assert_eq!(shares.total, 0);
        let mut groups = shares.groups.values();
        assert!(groups.all(|group| group.total == 0 && group.networks.is_empty()));
    }
    assert_eq!(state.requests.iter().count(), 0);
    assert_eq!(state.queue.len(), 0);
}

#[tokio::test]
async fn the_next_network_finds_permits_whatever_the_first_ones_use() {
    let limit = limit(256);
    let mut all = Vec::new();
    for (number, expected) in [128, 64, 32, 16, 8, 4, 2, 1].into_iter().enumerate() {
        let permits = fill(&limit, &format!("192.0.2.{number}"));
        assert_eq!(permits.len(), expected, "network {number}");
        all.extend(permits);
    }
    assert_eq!(limit.busy(), 255);
    // Networks that acquire permits in turn get equal shares.
    drop(all);
    let mut counts = [0; 3];
    let mut permits = Vec::new();
    for round in 0..300 {
        let own = round % 3;
        if let Some(permit) = limit.try_acquire(network(&format!("192.0.2.{own}"))) {
            counts[own] += 1;
            permits.push(permit);
        }
    }
    assert_eq!(counts, [64, 64, 64]);
    drop(permits);
    assert_unused(&limit);
}

/// A subscriber with a /48 can have a request of each of some thousand networks in the queue. Every request that is queued or ends
/// looks for the next one to serve, under the lock that all workers share.
#[tokio::test]
async fn many_queued_networks_of_a_group_at_its_limit_cost_other_requests_little() {
    let limit = Arc::new(RequestLimit::new(240, 10_000, SECOND * 60));
    let subnet = |number: u32| network(&format!("2001:db8:1:{number:x}::1"));
    let active = (0..400).filter_map(|number| limit.try_acquire(subnet(number)));
    let mut active: Vec<_> = active.collect();
    assert_eq!(active.len(), 160, "two thirds");
    let began = std::time::Instant::now();
    let mut queued: Vec<_> = (400..5400)
        .map(|number| {
            let (grant, granted) = oneshot::channel();
            (limit.enqueue(subnet(number), grant).unwrap(), granted)
        })
        .collect();
    let took = began.elapsed();
    assert!(took < SECOND * 5, "{took:?}");
    // The first network in the queue gets the permit of a request that ends, and no other network gets one.
    active.pop();
    let granted = queued.iter_mut().map(|(_, granted)| granted.try_recv());
    let granted: Vec<_> = granted.collect();
    assert!(granted[0].is_ok() && granted[1..].iter().all(Result::is_err));
}

#[tokio::test]
async fn networks_without_requests_are_forgotten() {
    let limit = limit(4);
    for number in 0..1000 {
        let address = format!("198.51.{}.{}", number / 250, number % 250);
        drop(limit.try_acquire(network(&address)).unwrap());
        let known = limit.state.lock().active.groups.len();
        assert!(known <= 2 * 4 + MAX_UNUSED_GROUPS, "{known}");
    }
    assert_unused(&limit);
}

#[tokio::test]
async fn a_small_limit_has_a_permit_for_a_single_network() {
    for (max_active, expected) in [(1, 1), (2, 1), (3, 2), (4, 2), (8, 4)] {
        let limit = limit(max_active);
        assert_eq!(fill(&limit, FIRST).len(), expected, "of {max_active}");
    }
}

#[tokio::test]
async fn a_48_gets_two_thirds_and_its_networks_leave_each_other_permits() {
    let limit = limit(240);
    let mut all = fill(&limit, "2001:db8:1:1::1");
    assert_eq!(all.len(), 120);
    // The same network from another address.
    assert!(fill(&limit, "2001:db8:1:1::2").is_empty());
    let neighbour = fill(&limit, NEIGHBOUR);
    assert!(neighbour.len() >= 30, "{}", neighbour.len());
    all.extend(neighbour);
    for subnet in 3..300 {
        all.extend(fill(&limit, &format!("2001:db8:1:{subnet:x}::1")));
    }
    assert_eq!(all.len(), 160, "two thirds");
    assert!(fill(&limit, "2001:db8:2::1").len() >= 40);
}

#[tokio::test]
async fn freed_permits_go_to_the_networks_in_turn() {
    let limit = limit(4);
    let mut permits = fill(&limit, FIRST);
    permits.extend(fill(&limit, SECOND_CLIENT));
    let last = fill(&limit, "192.0.2.3");
    assert_eq!((permits.len(), last.len()), (3, 1));
    let flood: Vec<_> = [
        queued(&limit, FIRST).await,
        queued(&limit, FIRST).await,
        queued(&limit, FIRST).await,
    ]
    .into();
    let other = queued(&limit, "192.0.2.5").await;
    drop(last);
    tokio::task::yield_now().await;
    assert!(other.is_finished());
    assert!(flood.iter().all(|waiting| !waiting.is_finished()));
    drop((permits, other));
    for waiting in flood {
        drop(waiting.await.unwrap().unwrap());
    }
    assert_unused(&limit);
}

#[tokio::test]
async fn a_full_queue_evicts_from_the_largest_share() {
    let limit = Arc::new(RequestLimit::new(1, 2, SECOND));
    let permits = fill(&limit, FIRST);
    let (older, newer) = (queued(&limit, FIRST).await, queued(&limit, FIRST).await);
    let rejected = queued(&limit, FIRST).await.await.unwrap();
    assert!(matches!(rejected, Err(Error::Busy)));
    let other = queued(&limit, SECOND_CLIENT).await;
    assert!(matches!(newer.await.unwrap(), Err(Error::Busy)));
    drop(permits);
    drop(older.await.unwrap().unwrap());
    drop(other.await.unwrap().unwrap());
    assert_unused(&limit);
}

#[tokio::test(start_paused = true)]
async fn a_queued_request_times_out_and_leaves_the_queue() {
    let limit = Arc::new(RequestLimit::new(1, 1000, SECOND));
    let permits = fill(&limit, FIRST);
    let given_up = queued(&limit, FIRST).await;
    let late = queued(&limit, FIRST).await;
    given_up.abort();
    assert!(given_up.await.is_err());
    assert_eq!(limit.busy(), 2);
    assert!(matches!(late.await.unwrap(), Err(Error::Busy)));
    assert_eq!(limit.busy(), 1);
    // A permit that is granted while its request is cancelled is not lost.
    let granted = queued(&limit, FIRST).await;
    granted.abort();
    drop(permits);
    let _ = granted.await;
    assert_unused(&limit);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_its_client_gives_its_permit_to_others() {
    let limit = limit(2);
    let permits = fill_stalled(&limit, FIRST);
    let busy = fill(&limit, SECOND_CLIENT);
    let waiting = queued(&limit, "192.0.2.3").await;
    pass(STALLED / 2).await;
    assert!(
        !waiting.is_finished(),
        "the request has not waited for long enough"
    );
    for _ in 0..4 {
        pass(STALLED / 4).await;
    }
    assert!(waiting.is_finished());
    let _granted = waiting.await.unwrap().unwrap();
    assert!(
        permits
            .iter()
            .chain(&busy)
            .all(|it| !it.request().is_displaced())
    );
    assert_eq!(limit.busy(), 3);
    // All other requests wait for the upstream, so none of them is detached.
    let waiting = queued(&limit, "192.0.2.4").await;
    pass(STALLED * 4).await;
    assert!(!waiting.is_finished());
    drop(permits);
    assert!(
        !waiting.is_finished(),
        "the dropped requests had no permits any more"
    );
    drop(busy);
    assert!(waiting.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_detached_while_the_queue_is_empty() {
    let limit = limit(4);
    let permits = fill_stalled(&limit, FIRST);
    pass(SECOND * 60).await;
    limit.make_room(Instant::now());
    assert_eq!(limit.state.lock().detached.total, 0);
    drop(permits);
    assert_unused(&limit);
}

#[tokio::test(start_paused = true)]
async fn a_network_detaches_at_most_its_share_and_displaces_no_request_of_its_own() {
    let limit = limit(8);
    let mut permits = fill_stalled(&limit, FIRST);
    for _ in 0..20 {
        pass(SECOND).await;
        let waiting = queued(&limit, FIRST).await;
        pass(SECOND).await;
        if waiting.is_finished() {
            let permit = waiting.await.unwrap().unwrap();
            permit.request().client_wait().begin();
            permits.push(permit);
        } else {
            waiting.abort();
            let _ = waiting.await;
        }
    }
    // Half of the permits, and half of the detached requests.
    assert_eq!(permits.len(), 8);
    assert!(
        permits
            .iter()
            .all(|permit| !permit.request().is_displaced())
    );
    assert!(limit.try_acquire(network(SECOND_CLIENT)).is_some());
    drop(permits);
    assert_unused(&limit);
}

/// With fewer and with more networks than permits. Each network repeats the requests that it loses.
#[tokio::test(start_paused = true)]
async fn a_new_network_gets_a_permit_however_many_networks_do_not_read() {
    for networks in [1, 2, 3, 8, 16, 40] {
        let limit = limit(16);
        let address = |number: usize| format!("198.51.100.{}", number % networks);
        let mut permits: Vec<RequestPermit> = Vec::new();
        let mut flood: Vec<Queued> = Vec::new();
        for number in 0..400 {
            flood.push(queued(&limit, &address(number)).await);
        }
        let (mut newcomer, mut waited) = (None, Duration::ZERO);
        for round in 0..200 {
            if round == 100 {
                newcomer = Some(queued(&limit, "203.0.113.1").await);
            }
            if newcomer.as_ref().is_some_and(JoinHandle::is_finished) {
                break;
            }
            pass(SECOND / 4).await;
            waited += newcomer.as_ref().map_or(Duration::ZERO, |_| SECOND / 4);
            for waiting in std::mem::take(&mut flood) {
                if waiting.is_finished() {
                    // A request without a permit was evicted from the queue.
                    if let Ok(permit) = waiting.await.unwrap() {
                        permit.request().client_wait().begin();
                        permits.push(permit);
                    }
                } else {
                    flood.push(waiting);
                }
            }
            permits.retain(|permit| !permit.request().is_displaced());
            assert!(
                permits.len() <= 32,
                "the limit, and as many detached requests"
            );
            for number in permits.len() + flood.len()..400 {
                flood.push(queued(&limit, &address(number)).await);
            }
        }
        println!("{networks} networks: {waited:?}");
        assert!(waited <= SECOND * 5, "{networks} networks: {waited:?}");
        let newcomer = newcomer.unwrap().await.unwrap();
        for waiting in flood {
            waiting.abort();
            let _ = waiting.await;
        }
        drop((permits, newcomer));
        assert_unused(&limit);
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_waiting_request_of_the_largest_group_is_displaced() {
    let limit = limit(4);
    // Two networks of one /48 wait for their clients, and then another network.
    let mut permits = fill_stalled(&limit, "2001:db8:1:1::1");
    pass(SECOND).await;
    permits.extend(fill_stalled(&limit, NEIGHBOUR));
    permits.extend(fill_stalled(&limit, FIRST));
    pass(SECOND * 2).await;
    let mut more = Vec::new();
    for number in 0..8 {
        let waiting = queued(&limit, &format!("198.51.100.{number}")).await;
        pass(SECOND * 2).await;
        let permit = waiting.await.unwrap().unwrap();
        permit.request().client_wait().begin();
        more.push(permit);
    }
    let displaced = |permits: &[RequestPermit]| {
        let displaced = permits.iter().map(|it| it.request().is_displaced());
        displaced.collect::<Vec<_>>()
    };
    assert!(
        displaced(&permits)[0],
        "the longest-waiting request is displaced"
    );
    assert!(limit.busy() <= 8);
    drop((permits, more));
    assert_unused(&limit);
}

#[tokio::test(start_paused = true)]
async fn only_a_request_that_waits_for_its_client_is_closed_for_a_descriptor() {
    let limit = limit(4);
    let permits = fill(&limit, FIRST);
    assert!(!limit.displace_stalled());
    permits[0].request().client_wait().begin();
    pass(STALLED / 2).await;
    assert!(!limit.displace_stalled());
    permits[1].request().client_wait().begin();
    pass(STALLED).await;
    assert!(limit.displace_stalled());
    assert!(permits[0].request().is_displaced());
    assert_eq!(limit.busy(), 1);
    drop(permits);
    assert_unused(&limit);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Acquire(u8),
    Release(u8),
    Stall(u8),
    GiveUp(u8),
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..12).prop_map(Step::Acquire),
        2 => any::<u8>().prop_map(Step::Release),
        2 => any::<u8>().prop_map(Step::Stall),
        1 => any::<u8>().prop_map(Step::GiveUp),
        1 => Just(Step::Pass),
    ]
}

async fn run(max_active: usize, steps: Vec<Step>) {
    let limit = Arc::new(RequestLimit::new(max_active, 8, SECOND * 600));
    let (mut permits, mut waiting): (Vec<RequestPermit>, Vec<Queued>) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Acquire(own) => {
                let address = format!("2001:db8:{}:{}::1", own / 4, own % 4);
                waiting.push(queued(&limit, &address).await);
            }
            Step::Release(at) if !permits.is_empty() => {
                drop(permits.remove(usize::from(at) % permits.len()));
            }
            Step::Stall(at) if !permits.is_empty() => {
                let at = usize::from(at) % permits.len();
                permits[at].request().client_wait().begin();
            }
            Step::GiveUp(at) if !waiting.is_empty() => {
                let given_up = waiting.remove(usize::from(at) % waiting.len());
                given_up.abort();
                // The permit may have been granted before the cancellation.
                if let Ok(Ok(permit)) = given_up.await {
                    permits.push(permit);
                }
            }
            Step::Pass => pass(SECOND).await,
            Step::Release(_) | Step::Stall(_) | Step::GiveUp(_) => {}
        }
        tokio::task::yield_now().await;
        for done in std::mem::take(&mut waiting) {
            if !done.is_finished() {
                waiting.push(done);
            } else if let Ok(permit) = done.await.unwrap() {
                permits.push(permit);
            }
        }
        let state = limit.state.lock();
        assert!(state.active.total <= max_active && state.detached.total <= max_active);
        for shares in [&state.active, &state.detached] {
            for group in shares.groups.values() {
                let networks = || group.networks.iter().map(|(_, count)| *count);
                assert!(networks().all(|count| count > 0 && count <= max_active.div_ceil(2)));
                assert_eq!(networks().sum::<usize>(), group.total);
            }
            let of_groups = shares.groups.values().map(|group| group.total);
            assert_eq!(of_groups.sum::<usize>(), shares.total);
        }
        let open = state.active.total + state.detached.total;
        assert_eq!(state.requests.iter().count(), open);
        let may_have_permit = |own| state.active.may_add(own);
        assert!(
            !state.queue.networks().any(may_have_permit),
            "a queued request could have a permit"
        );
    }
    drop(permits);
    for waiting in waiting {
        waiting.abort();
        if let Ok(Ok(permit)) = waiting.await {
            drop(permit);
        }
    }
    assert_unused(&limit);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_counts_are_correct_after_any_steps(max_active in 1_usize..9, steps in prop::collection::vec(step(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(max_active, steps));
    }
}
