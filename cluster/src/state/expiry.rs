//! What happens because time passed: due wills, expired sessions, expired messages. Time is that of log entries.
//! Always true: what is due is worked off in order of time, before anything that depends on it (a new connection of the
//! same client looks first).
//! Bound: one tick works off no more than [`super::STEP_WORK`]; the next deadline then lies in the past.
use super::{connect::SessionHandler, deadlines::Deadline, effects::Effects, sessions::SessionPlace};
use mosquorum_proto::mqtt::Utf8;

impl SessionHandler<'_> {
    pub(super) fn tick(&mut self, out: &mut Effects<'_>) {
        self.steps().begin();
        while self.steps().left() > 0
            && let Some(due) = self.lives().pop_due()
        {
            self.steps().take(1);
            match due {
                Deadline::Will(client_id) => self.at_session(&client_id, |s, place| s.will_is_due(place, out)),
                Deadline::Session(client_id) => self.at_session(&client_id, |s, place| s.expire_session(place, out)),
                Deadline::Sweep(client_id) => self.at_session(&client_id, |s, place| s.sweep(place, out)),
                Deadline::Retained(topic) => self.publishing().retained().remove(&topic),
            }
        }
        self.go_on(out);
    }

    fn at_session(&mut self, client_id: &Utf8, f: impl FnOnce(&mut Self, SessionPlace)) {
        if let Some(place) = self.find(client_id) {
            f(self, place);
        }
    }

    /// Does now what is due for one client.
    pub(super) fn work_off(&mut self, client_id: &Utf8, out: &mut Effects<'_>) {
        self.at_session(client_id, |sessions, place| sessions.see_to_lost(place, out));
        let Some(place) = self.find(client_id) else { return };
        let (will, end) = self.lives().take_due(place);
        if will {
            self.will_is_due(place, out);
        }
        if end {
            self.expire_session(place, out);
        }
    }

    fn expire_session(&mut self, place: SessionPlace, out: &mut Effects<'_>) {
        let will = self.lives().expire(place);
        self.end_session(place, out);
        if let Some(message) = will {
            self.publish_will(message, &[], out);
        }
    }

    fn sweep(&mut self, place: SessionPlace, out: &mut Effects<'_>) {
        self.routing().detach_lost(place);
        self.queues().sweep(place, out);
    }
}
