//! What the MQTT standards demand, over the wire, against one node and against three whose clients sit on different
//! nodes. The clause that a test proves stands beside it: plain ids are those of MQTT 5.0, `3.1.1:` those of MQTT 3.1.1.
mod connect;
mod flow_control;
mod malformed;
mod order;
mod properties;
mod publish;
mod retained;
mod session;
mod shared_subscriptions;
mod subscribe;
mod wills;
