//! Subscriptions to one filter: in the order they came, found by key.
//! Always true: each key is there once; most filters have one subscription and need no allocation for it; filters with
//! many have an index, so that adding and removing does not look at the others.
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hash};

/// Above this many an index is kept; below a quarter of it no longer.
const INDEX_FROM: usize = 32;

#[derive(Clone)]
pub(super) enum Entries<K, V> {
    None,
    One(K, V),
    Few(Vec<(K, V)>),
    Many(Box<Indexed<K, V>>),
}

#[derive(Clone)]
pub(super) struct Indexed<K, V> {
    /// In order; removed ones are `None` until half of all are.
    slots: Vec<Option<(K, V)>>,
    places: HashTable<u32>,
}

impl<K, V> Entries<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Few(list) => list.len(),
            Self::Many(indexed) => indexed.places.len(),
        }
    }

    pub(super) fn for_each<'t>(&'t self, f: &mut impl FnMut(&'t K, &'t V)) {
        match self {
            Self::None => {}
            Self::One(key, value) => f(key, value),
            Self::Few(list) => list.iter().for_each(|(key, value)| f(key, value)),
            Self::Many(indexed) => indexed.slots.iter().flatten().for_each(|(key, value)| f(key, value)),
        }
    }
}

impl<K: Eq + Hash, V> Entries<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V, hasher: &impl BuildHasher) -> Option<V> {
        if let Some(place) = self.get_mut(&key, hasher) {
            return Some(std::mem::replace(place, value));
        }
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::One(key, value),
            Self::One(first, held) => Self::Few(vec![(first, held), (key, value)]),
            Self::Few(mut list) => {
                list.push((key, value));
                if list.len() < INDEX_FROM {
                    Self::Few(list)
                } else {
                    Self::Many(Box::new(Indexed::new(list.into_iter().map(Some).collect(), hasher)))
                }
            }
            Self::Many(mut indexed) => {
                indexed.push(key, value, hasher);
                Self::Many(indexed)
            }
        };
        None
    }

    pub(super) fn remove(&mut self, key: &K, hasher: &impl BuildHasher) -> Option<V> {
        let removed;
        *self = match std::mem::replace(self, Self::None) {
            Self::One(held, value) if held == *key => {
                removed = Some(value);
                Self::None
            }
            Self::Few(mut list) => {
                removed = list.iter().position(|(held, _)| held == key).map(|place| list.remove(place).1);
                if list.len() > 1 { Self::Few(list) } else { list.pop().map_or(Self::None, |(k, v)| Self::One(k, v)) }
            }
            Self::Many(mut indexed) => {
                removed = indexed.remove(key, hasher);
                if indexed.places.len() > INDEX_FROM / 4 {
                    Self::Many(indexed)
                } else {
                    Self::Few(indexed.slots.into_iter().flatten().collect())
                }
            }
            other => {
                removed = None;
                other
            }
        };
        removed
    }

    pub(super) fn get(&self, key: &K, hasher: &impl BuildHasher) -> Option<&V> {
        match self {
            Self::One(held, value) if held == key => Some(value),
            Self::None | Self::One(..) => None,
            Self::Few(list) => list.iter().find(|(held, _)| held == key).map(|(_, value)| value),
            Self::Many(indexed) => {
                let place = indexed.place(key, hasher)?;
                indexed.slots[place].as_ref().map(|(_, value)| value)
            }
        }
    }

    pub(super) fn get_mut(&mut self, key: &K, hasher: &impl BuildHasher) -> Option<&mut V> {
        match self {
            Self::One(held, value) if held == key => Some(value),
            Self::None | Self::One(..) => None,
            Self::Few(list) => list.iter_mut().find(|(held, _)| held == key).map(|(_, value)| value),
            Self::Many(indexed) => {
                let place = indexed.place(key, hasher)?;
                indexed.slots[place].as_mut().map(|(_, value)| value)
            }
        }
    }
}

impl<K: Eq + Hash, V> Indexed<K, V> {
    /// Every slot must be in use.
    fn new(slots: Vec<Option<(K, V)>>, hasher: &impl BuildHasher) -> Self {
        let mut indexed = Self { places: HashTable::with_capacity(slots.len() * 2), slots };
        indexed.rebuild(hasher);
        indexed
    }

    fn rebuild(&mut self, hasher: &impl BuildHasher) {
        self.places.clear();
        for (place, slot) in self.slots.iter().enumerate() {
            let hash = |place: &u32| hash_at(&self.slots, *place, hasher);
            if let Some((key, _)) = slot {
                self.places.insert_unique(hasher.hash_one(key), place as u32, hash);
            }
        }
    }

    fn push(&mut self, key: K, value: V, hasher: &impl BuildHasher) {
        let hash = hasher.hash_one(&key);
        // Fewer than 2^32: each takes more than a byte of memory that nodes share.
        let place = u32::try_from(self.slots.len()).expect("fewer than 2^32 subscriptions to a filter");
        self.slots.push(Some((key, value)));
        self.places.insert_unique(hash, place, |place| hash_at(&self.slots, *place, hasher));
    }

    fn place(&self, key: &K, hasher: &impl BuildHasher) -> Option<usize> {
        let holds = |place: &u32| self.slots[*place as usize].as_ref().is_some_and(|(held, _)| held == key);
        self.places.find(hasher.hash_one(key), holds).map(|place| *place as usize)
    }

    fn remove(&mut self, key: &K, hasher: &impl BuildHasher) -> Option<V> {
        let holds = |place: &u32| self.slots[*place as usize].as_ref().is_some_and(|(held, _)| held == key);
        let (place, _) = self.places.find_entry(hasher.hash_one(key), holds).ok()?.remove();
        let (_, value) = self.slots[place as usize].take()?;
        if self.places.len() * 2 < self.slots.len() {
            self.slots.retain(Option::is_some);
            self.slots.shrink_to(self.slots.len() * 2);
            self.rebuild(hasher);
        }
        Some(value)
    }
}

fn hash_at<K: Hash, V>(slots: &[Option<(K, V)>], place: u32, hasher: &impl BuildHasher) -> u64 {
    slots[place as usize].as_ref().map_or(0, |(key, _)| hasher.hash_one(key))
}
