//! Versions of the contract, side by side.
//!
//! A component is bound to the version that it was built for, for good: adding a field to
//! a record would break every compiled plugin. So each released version has a module here,
//! with bindings of its own, and the rest of the crate sees only [`World`] and [`Guest`].
//! A new version is one more module and one more line in [`SERVED`].
//!
//! | module | contract |
//! |---|---|
//! | `rules` | any: what holds whatever version is spoken |
//! | `v0_1` | `wit/released/0.1.0` |
//! | `v0_2` | `wit/released/0.2.0` |
//! | `next` | `wit/next-for-tests`, a version that does not exist; tests only |

mod rules;
mod v0_1;
mod v0_2;

#[cfg(test)]
mod next;
#[cfg(test)]
mod tests;

use wasmtime::component::{Component, InstancePre, Linker};
use windlass_core::code::Refusal;
use windlass_core::guests::{Call, Called};
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;

use crate::call::{Given, Inside};
use crate::engine::Sandbox;

/// Package of the contract, with what follows it in the name of an interface.
const CONTRACT: &str = "windlass:operator/";

/// The versions that this host serves, the newest last.
pub(crate) const SERVED: &[&World] = &[&v0_1::WORLD, &v0_2::WORLD];

/// One version of the contract.
pub(crate) struct World {
    /// As in the package's name.
    pub(crate) version: &'static str,
    /// The binary form of its world `reconciler`: what components are compared with.
    pub(crate) component_type: &'static [u8],
    /// Offers its imports.
    pub(crate) offer: fn(&mut Linker<Inside>) -> wasmtime::Result<()>,
    /// Finds its exports, once for all calls.
    pub(crate) link: fn(InstancePre<Inside>) -> wasmtime::Result<Box<dyn Guest>>,
}

/// A component, linked, that is asked in the words of its version. Both methods block as
/// [`call`](crate::call::call) does.
pub(crate) trait Guest: Send + Sync {
    /// What the plugin says of itself.
    ///
    /// # Errors
    /// E201 to E211 when it fails to say it, E170 for what it says.
    fn manifest(&self, sandbox: &Sandbox, limits: &Limits, given: Given<'_>) -> Result<Manifest, Refusal>;
    /// What it decides.
    fn decide(&self, sandbox: &Sandbox, limits: &Limits, given: Given<'_>, asked: &Call<'_>) -> Called;
}

/// Which of `worlds` a compiled component was built for: that of its imports. One without any
/// import of the contract is the newest's, as it was when it was checked.
///
/// # Errors
/// A version that is not served; the check before compilation has refused those.
pub(crate) fn world_of<'w>(
    component: &Component,
    worlds: &'w [&'static World],
) -> wasmtime::Result<&'w World> {
    let ty = component.component_type();
    let target = ty
        .imports(component.engine())
        .find_map(|(name, _)| Some(name.strip_prefix(CONTRACT)?.split_once('@')?.1.to_owned()));
    let world = match &target {
        Some(version) => worlds.iter().find(|world| world.version == version),
        None => worlds.last(),
    };
    world.copied().ok_or_else(|| {
        wasmtime::Error::msg(format!("{CONTRACT}…@{} is not served", target.unwrap_or_default()))
    })
}
