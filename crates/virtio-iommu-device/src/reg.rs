//! Registers of virtio-mmio version 2 (4.2.2): offsets in bytes.

/// MagicValue, R.
pub const MAGIC_VALUE: u32 = 0x000;
/// Version, R.
pub const VERSION: u32 = 0x004;
/// DeviceID, R.
pub const DEVICE_ID: u32 = 0x008;
/// VendorID, R.
pub const VENDOR_ID: u32 = 0x00c;
/// DeviceFeatures, R.
pub const DEVICE_FEATURES: u32 = 0x010;
/// DeviceFeaturesSel, W.
pub const DEVICE_FEATURES_SEL: u32 = 0x014;
/// DriverFeatures, W.
pub const DRIVER_FEATURES: u32 = 0x020;
/// DriverFeaturesSel, W.
pub const DRIVER_FEATURES_SEL: u32 = 0x024;
/// QueueSel, W.
pub const QUEUE_SEL: u32 = 0x030;
/// QueueNumMax (QueueSizeMax since 1.3), R.
pub const QUEUE_NUM_MAX: u32 = 0x034;
/// QueueNum (QueueSize since 1.3), W.
pub const QUEUE_NUM: u32 = 0x038;
/// QueueReady, RW.
pub const QUEUE_READY: u32 = 0x044;
/// QueueNotify, W.
pub const QUEUE_NOTIFY: u32 = 0x050;
/// InterruptStatus, R.
pub const INTERRUPT_STATUS: u32 = 0x060;
/// InterruptACK, W.
pub const INTERRUPT_ACK: u32 = 0x064;
/// Status, RW.
pub const STATUS: u32 = 0x070;
/// QueueDescLow, W.
pub const QUEUE_DESC_LOW: u32 = 0x080;
/// QueueDescHigh, W.
pub const QUEUE_DESC_HIGH: u32 = 0x084;
/// QueueDriverLow, W.
pub const QUEUE_DRIVER_LOW: u32 = 0x090;
/// QueueDriverHigh, W.
pub const QUEUE_DRIVER_HIGH: u32 = 0x094;
/// QueueDeviceLow, W.
pub const QUEUE_DEVICE_LOW: u32 = 0x0a0;
/// QueueDeviceHigh, W.
pub const QUEUE_DEVICE_HIGH: u32 = 0x0a4;
/// SHMSel, W.
pub const SHM_SEL: u32 = 0x0ac;
/// SHMLenLow, R.
pub const SHM_LEN_LOW: u32 = 0x0b0;
/// SHMLenHigh, R.
pub const SHM_LEN_HIGH: u32 = 0x0b4;
/// SHMBaseLow, R.
pub const SHM_BASE_LOW: u32 = 0x0b8;
/// SHMBaseHigh, R.
pub const SHM_BASE_HIGH: u32 = 0x0bc;
/// QueueReset, RW.
pub const QUEUE_RESET: u32 = 0x0c0;
/// ConfigGeneration, R.
pub const CONFIG_GENERATION: u32 = 0x0fc;
/// The first byte of the configuration space.
pub const CONFIG: u32 = 0x100;

/// What [`MAGIC_VALUE`] reads as.
pub const MAGIC: u32 = 0x7472_6976;
/// What [`DEVICE_ID`] reads as (5.13.1).
pub const IOMMU: u32 = 23;
/// Bytes of registers and configuration, rounded up to a page.
pub const SPAN: u64 = 0x1000;
