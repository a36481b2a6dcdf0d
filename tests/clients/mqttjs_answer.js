// An ordinary MQTT.js program, for Node.js and for a page in a browser: gives back each question as an answer, with its
// QoS, until it is told to end.
//
// Node.js: mqttjs_answer.js MODULE URL NAME VERSION      Browser: page.html?URL&NAME&VERSION
const inBrowser = typeof window !== "undefined";
const words = inBrowser ? location.search.slice(1).split("&").map(decodeURIComponent) : process.argv.slice(3);
const [url, name, version] = words;
const library = inBrowser ? window.mqtt : require(process.argv[2]);

const client = library.connect(url, {
    clientId: `${name}-client`,
    protocolVersion: Number(version),
    clean: true,
    connectTimeout: 20000,
    reconnectPeriod: 500,
    will: { topic: `${name}/lost`, payload: "it went without a word", qos: 1 },
});
client.on("connect", () => {
    client.subscribe({ [`${name}/question`]: { qos: 2 }, [`${name}/end`]: { qos: 1 } }, (error) => {
        if (error) throw error;
        client.publish(`${name}/ready`, inBrowser ? navigator.userAgent : `Node.js ${process.version}`, { qos: 1 });
    });
});
client.on("message", (topic, payload, packet) => {
    if (topic.endsWith("/end")) {
        client.end(false);
        return;
    }
    client.publish(`${name}/answer`, payload, { qos: packet.qos });
});
client.on("error", (error) => console.error(String(error)));
