//! A value for each listening address, where some sites are served on some addresses only (`site.listen`).
//!
//! `site` keeps its host tables in a [`ByListener`], and `tls` its tables of server names, so that both select among the same
//! sites for a connection.

use std::collections::HashMap;

use super::listener::ListenAddr;

/// One value for each listening address that some site names, and one for all other addresses.
#[derive(Clone, Debug, Default)]
pub struct ByListener<T> {
    others: T,
    named: HashMap<ListenAddr, T>,
}

impl<T: Default> ByListener<T> {
    /// Creates the values. `named` are the addresses that sites name, in any order and with repetitions.
    pub fn new<'a>(named: impl IntoIterator<Item = &'a ListenAddr>) -> Self {
        let named = named.into_iter();
        Self {
            others: T::default(),
            named: named
                .map(|address| (address.clone(), T::default()))
                .collect(),
        }
    }

    /// The values of the addresses on which a site is served: those in `listen`, or all of them if the site names none.
    pub fn served_on<'a>(
        &'a mut self,
        listen: Option<&'a [ListenAddr]>,
    ) -> impl Iterator<Item = &'a mut T> {
        let others = listen.is_none().then_some(&mut self.others);
        let named = self.named.iter_mut();
        let named = named
            .filter(move |(address, _)| listen.is_none_or(|listen| listen.contains(address)))
            .map(|(_, value)| value);
        others.into_iter().chain(named)
    }
}

impl<T> ByListener<T> {
    /// The value for connections to this address.
    pub fn get(&self, listener: &ListenAddr) -> &T {
        self.named.get(listener).unwrap_or(&self.others)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.others).chain(self.named.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_on_the_addresses_that_it_names_or_on_all() {
        let address = |port: u16| ListenAddr::Address(([127, 0, 0, 1], port).into());
        let mut sites = ByListener::<Vec<&str>>::new(&[address(1), address(2), address(1)]);
        for (listen, name) in [
            (Some(&[address(1)][..]), "one"),
            (None, "all"),
            (Some(&[address(2), address(1)]), "both"),
        ] {
            sites.served_on(listen).for_each(|served| served.push(name));
        }
        assert_eq!(*sites.get(&address(1)), ["one", "all", "both"]);
        assert_eq!(*sites.get(&address(2)), ["all", "both"]);
        assert_eq!(*sites.get(&address(3)), ["all"]);
        assert_eq!(sites.values().count(), 3);
    }
}
