//! The state of the registry: repositories with blobs, manifests and tags, and the uploads in progress.
//!
//! The handlers in `blobs`, `uploads` and `manifests` call this module, which does not know HTTP. It has one lock, which is held
//! for lookups only and never while bytes are copied.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderValue;

use crate::Failure;
use crate::content::{Blob, Draft, Full, Space};
use crate::crypto::{hex, random};

/// The state of a registry.
pub(crate) struct Store {
    space: Arc<Space>,
    state: Mutex<State>,
}

/// A manifest and its media type.
pub(crate) struct Manifest {
    pub(crate) media_type: HeaderValue,
    pub(crate) content: Blob,
}

/// An upload that one request owns. No other request finds it meanwhile. Unless it is finished or dismissed, dropping it puts it back
/// with all bytes received, so that a client whose connection broke can resume.
pub(crate) struct Upload {
    store: Arc<Store>,
    id: String,
    repository: String,
    draft: Option<Draft>,
}

#[derive(Default)]
struct State {
    repositories: BTreeMap<String, Repository>,
    /// Uploads by id, each with its repository.
    uploads: HashMap<String, (String, Draft)>,
}

#[derive(Default)]
struct Repository {
    /// Blobs by digest, manifests by digest, tags by name. Content of several repositories is stored once.
    blobs: HashMap<String, Arc<Blob>>,
    manifests: HashMap<String, Arc<Manifest>>,
    tags: BTreeMap<String, String>,
}

impl Store {
    /// Creates an empty store that keeps at most `most` bytes.
    pub(crate) fn new(most: u64) -> Arc<Self> {
        Arc::new(Self {
            space: Space::new(most),
            state: Mutex::default(),
        })
    }

    /// Starts content that belongs to no repository yet.
    pub(crate) fn draft(&self) -> Draft {
        Draft::new(Arc::clone(&self.space))
    }

    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<Arc<Blob>> {
        let state = self.lock();
        let blobs = &state.repositories.get(repository)?.blobs;
        blobs.get(digest).cloned()
    }

    /// Adds a blob to a repository. If another repository has the same blob, that copy is shared.
    pub(crate) fn add_blob(&self, repository: &str, blob: Blob) {
        let mut state = self.lock();
        let digest = blob.digest().to_owned();
        let known = state
            .repositories
            .values()
            .find_map(|repository| repository.blobs.get(&digest).cloned());
        let blob = known.unwrap_or_else(|| Arc::new(blob));
        state.repository(repository).blobs.insert(digest, blob);
    }

    /// Mounts a blob; returns whether `from` had it.
    pub(crate) fn mount(&self, from: &str, repository: &str, digest: &str) -> bool {
        let Some(blob) = self.blob(from, digest) else {
            return false;
        };
        let mut state = self.lock();
        let blobs = &mut state.repository(repository).blobs;
        blobs.insert(digest.to_owned(), blob);
        true
    }

    pub(crate) fn remove_blob(&self, repository: &str, digest: &str) -> bool {
        let mut state = self.lock();
        let found = state.repositories.get_mut(repository);
        found.is_some_and(|repository| repository.blobs.remove(digest).is_some())
    }

    /// Finds a manifest by tag or digest.
    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Option<Arc<Manifest>> {
        let state = self.lock();
        let repository = state.repositories.get(repository)?;
        let tagged = repository.tags.get(reference).map(String::as_str);
        let manifest = repository.manifests.get(tagged.unwrap_or(reference));
        manifest.cloned()
    }

    /// Adds a manifest and points `tag` to it.
    pub(crate) fn add_manifest(&self, repository: &str, tag: Option<&str>, manifest: Manifest) {
        let mut state = self.lock();
        let repository = state.repository(repository);
        let digest = manifest.content.digest().to_owned();
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), digest.clone());
        }
        repository.manifests.insert(digest, Arc::new(manifest));
    }

    /// Deletes a tag, or a manifest with all tags that point to it.
    pub(crate) fn remove_manifest(&self, repository: &str, reference: &str) -> bool {
        let mut state = self.lock();
        let Some(repository) = state.repositories.get_mut(repository) else {
            return false;
        };
        if repository.tags.remove(reference).is_some() {
            return true;
        }
        repository.tags.retain(|_, digest| digest != reference);
        repository.manifests.remove(reference).is_some()
    }

    /// The tags in order; `None` for a repository that was never pushed to.
    pub(crate) fn tags(&self, repository: &str) -> Option<Vec<String>> {
        let state = self.lock();
        let repository = state.repositories.get(repository)?;
        Some(repository.tags.keys().cloned().collect())
    }

    /// The names of the repositories that hold a manifest, in order.
    pub(crate) fn repositories(&self) -> Vec<String> {
        let state = self.lock();
        let all = state.repositories.iter();
        all.filter(|(_, repository)| !repository.manifests.is_empty())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Starts an upload. Fails only if the system has no random bytes.
    pub(crate) fn begin_upload(self: &Arc<Self>, repository: &str) -> Result<Upload, Failure> {
        Ok(Upload {
            store: Arc::clone(self),
            id: hex(&random(16)?),
            repository: repository.to_owned(),
            draft: Some(self.draft()),
        })
    }

    /// Takes an upload of this repository out of the store, unless another request has taken it.
    pub(crate) fn take_upload(self: &Arc<Self>, repository: &str, id: &str) -> Option<Upload> {
        let mut state = self.lock();
        let (owner, _) = state.uploads.get(id)?;
        if owner != repository {
            return None;
        }
        let (repository, draft) = state.uploads.remove(id)?;
        Some(Upload {
            store: Arc::clone(self),
            id: id.to_owned(),
            repository,
            draft: Some(draft),
        })
    }

    /// Locks the state. A panic of another holder leaves no half-done change that matters in the demo.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }
}

impl Upload {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The number of bytes received.
    pub(crate) fn length(&self) -> u64 {
        self.draft.as_ref().map_or(0, Draft::length)
    }

    /// Appends `data`. At the memory limit the upload ends and releases its own memory.
    pub(crate) fn append(&mut self, data: &[u8]) -> Result<(), Full> {
        let appended = self
            .draft
            .as_mut()
            .map_or(Ok(()), |draft| draft.append(data));
        if appended.is_err() {
            self.draft = None;
        }
        appended
    }

    /// Turns the bytes received into a blob that is in no repository yet.
    pub(crate) fn finish(mut self) -> Option<Blob> {
        self.draft.take().map(Draft::finish)
    }

    /// Discards the upload.
    pub(crate) fn dismiss(mut self) {
        self.draft = None;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(draft) = self.draft.take() {
            let (id, repository) = (mem::take(&mut self.id), mem::take(&mut self.repository));
            self.store.lock().uploads.insert(id, (repository, draft));
        }
    }
}
