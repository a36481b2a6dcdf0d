"""An ordinary paho-mqtt program: counts requests, answers each from on_message, ends when all answers are there.

Usage: paho_echo.py NONE|VERSION1|VERSION2 REQUEST_HOST:PORT ANSWER_HOST:PORT MESSAGES
One client asks through the first address, the other answers through the second, both in loop_forever.
"""
import sys
import threading

import paho.mqtt.client as mqtt

callbacks, first, second, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
name = f"paho-{callbacks}-{first.rpartition(':')[2]}-{second.rpartition(':')[2]}".lower()
requests, answers = f"{name}/request", f"{name}/answer"
answering = threading.Event()
expected = [f"{number}".encode() for number in range(count)]
got = []


def client(suffix, on_connect, on_message, on_subscribe):
    # paho-mqtt 1 has one kind of callbacks and no word for it.
    version = () if callbacks == "NONE" else (getattr(mqtt.CallbackAPIVersion, callbacks),)
    made = mqtt.Client(*version, client_id=f"{name}-{suffix}", clean_session=False)
    made.on_message = on_message
    # The two versions differ in what callbacks are given; both begin with client and userdata.
    made.on_connect = lambda c, *_: on_connect(c)
    made.on_subscribe = lambda c, *_: on_subscribe(c)
    return made


def answer(c, _userdata, message):
    c.publish(answers, message.payload, qos=message.qos)


def ask(c):
    answering.wait(20)
    for number, payload in enumerate(expected):
        c.publish(requests, payload, qos=1 + number % 2)


def collect(c, _userdata, message):
    got.append(message.payload)
    if len(got) == len(expected):
        c.disconnect()


def connect(c, address):
    host, _, port = address.rpartition(":")
    c.connect(host, int(port), keepalive=10)


answerer = client("answerer", lambda c: c.subscribe(requests, 2), answer, lambda _: answering.set())
asker = client("asker", lambda c: c.subscribe(answers, 2), collect, ask)
connect(answerer, second)
threading.Thread(target=answerer.loop_forever, daemon=True).start()
connect(asker, first)
watchdog = threading.Timer(60, asker.disconnect)
watchdog.daemon = True
watchdog.start()
asker.loop_forever()
answerer.disconnect()
# QoS 1 and QoS 2 are two flows: each keeps its order and comes exactly once here, where nothing breaks.
for qos in (1, 2):
    wanted = [payload for number, payload in enumerate(expected) if 1 + number % 2 == qos]
    came = [payload for payload in got if payload in set(wanted)]
    if came != wanted:
        print(f"QoS {qos}: {len(came)} of {len(wanted)} answers, or in another order", file=sys.stderr)
        sys.exit(1)
print(f"{len(got)} answers")
