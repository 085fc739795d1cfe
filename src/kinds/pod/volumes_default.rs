//! Defaults of volumes.

use super::default::pull_policy;
use crate::kinds::fill;
use crate::meta::{Quantity, quantity};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, EmptyDirVolumeSource, Volume, VolumeProjection};

/// Mode of files whose volume gives none: rw-r--r--.
const DEFAULT_MODE: i32 = 0o644;
const TOKEN_EXPIRATION_SECONDS: i64 = 3600;

pub fn volume(volume: &mut Volume) {
    if has_no_source(volume) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(v) = &mut volume.empty_dir {
        fill::drop_zero(&mut v.medium);
        if let Some(limit) = &mut v.size_limit {
            canonical(limit);
        }
    }
    if let Some(v) = &mut volume.config_map {
        fill::or(&mut v.default_mode, DEFAULT_MODE);
    }
    if let Some(v) = &mut volume.secret {
        fill::or(&mut v.default_mode, DEFAULT_MODE);
    }
    if let Some(v) = &mut volume.downward_api {
        fill::or(&mut v.default_mode, DEFAULT_MODE);
        v.items.iter_mut().flatten().for_each(downward_file);
    }
    if let Some(v) = &mut volume.projected {
        fill::or(&mut v.default_mode, DEFAULT_MODE);
        v.sources.iter_mut().flatten().for_each(projection);
    }
    if let Some(v) = &mut volume.host_path {
        fill::or(&mut v.type_, String::new());
    }
    if let Some(v) = &mut volume.image {
        let policy = pull_policy(fill::str_of(&v.reference));
        fill::text(&mut v.pull_policy, policy);
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        template.metadata.get_or_insert_default();
        fill::or(&mut template.spec.volume_mode, "Filesystem".into());
    }
    network_volume(volume);
}

fn network_volume(volume: &mut Volume) {
    if let Some(v) = &mut volume.iscsi {
        fill::text(&mut v.iscsi_interface, "default");
    }
    if let Some(v) = &mut volume.rbd {
        fill::text(&mut v.pool, "rbd");
        fill::text(&mut v.user, "admin");
        fill::text(&mut v.keyring, "/etc/ceph/keyring");
    }
    if let Some(v) = &mut volume.azure_disk {
        fill::or(&mut v.caching_mode, "ReadWrite".into());
        fill::or(&mut v.kind, "Shared".into());
        fill::or(&mut v.fs_type, "ext4".into());
        fill::or(&mut v.read_only, false);
    }
    if let Some(v) = &mut volume.scale_io {
        fill::text(&mut v.storage_mode, "ThinProvisioned");
        fill::text(&mut v.fs_type, "xfs");
    }
}

fn projection(source: &mut VolumeProjection) {
    if let Some(token) = &mut source.service_account_token {
        fill::or(&mut token.expiration_seconds, TOKEN_EXPIRATION_SECONDS);
    }
    for file in source.downward_api.iter_mut().flat_map(|d| d.items.iter_mut().flatten()) {
        downward_file(file);
    }
}

fn downward_file(file: &mut DownwardAPIVolumeFile) {
    if let Some(field) = &mut file.field_ref {
        fill::text(&mut field.api_version, "v1");
    }
    if let Some(resource) = &mut file.resource_field_ref {
        divisor(&mut resource.divisor);
    }
}

/// An absent divisor shows as `0`, which means one.
pub fn divisor(slot: &mut Option<Quantity>) {
    canonical(slot.get_or_insert_with(|| Quantity("0".into())));
}

fn canonical(quantity: &mut Quantity) {
    if let Ok(text) = quantity::canonical(&quantity.0) {
        quantity.0 = text;
    }
}

fn has_no_source(volume: &Volume) -> bool {
    *volume == Volume { name: volume.name.clone(), ..Volume::default() }
}
