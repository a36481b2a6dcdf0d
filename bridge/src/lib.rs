//! An MQTT client to a remote broker, cluster-aware. Skeleton: the bridge comes after the spine.
