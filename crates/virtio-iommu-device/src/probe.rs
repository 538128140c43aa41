//! Properties of an endpoint (5.13.6.7 and 5.13.6.8).

use crate::Counts;
use crate::features::PROBE_SIZE;
use portcullis_dma_domain::{Endpoint, Iommu, ReservedKind};

/// VIRTIO_IOMMU_PROBE_T_RESV_MEM.
const RESV_MEM: u16 = 1;
/// Bytes of a RESV_MEM property with its head, and without.
const PROPERTY: usize = 24;
const LENGTH: u16 = 20;

type Properties = [u8; PROBE_SIZE as usize];

/// No properties: a type of 0 ends the list.
pub(crate) fn empty() -> Properties {
    [0; PROBE_SIZE as usize]
}

/// The properties of `endpoint`, and zeroes.
pub(crate) fn properties<I: Iommu>(
    iommu: &I,
    endpoint: Endpoint,
    counts: &mut Counts,
) -> Properties {
    let mut bytes = empty();
    let mut places = bytes.chunks_exact_mut(PROPERTY);
    let mut index = 0;
    while let Some(reserved) = iommu.reserved(endpoint, index) {
        let Some(place) = places.next() else {
            // A MAP of what is left out is refused all the same.
            counts.properties_cut += 1;
            break;
        };
        let kind: u8 = match reserved.kind {
            ReservedKind::Reserved => 0,
            ReservedKind::Msi => 1,
        };
        let last = reserved.range.end().raw() - 1;
        let fields = RESV_MEM
            .to_le_bytes()
            .into_iter()
            .chain(LENGTH.to_le_bytes())
            .chain([kind, 0, 0, 0])
            .chain(reserved.range.start().raw().to_le_bytes())
            .chain(last.to_le_bytes());
        for (to, from) in place.iter_mut().zip(fields) {
            *to = from;
        }
        index += 1;
    }
    bytes
}
