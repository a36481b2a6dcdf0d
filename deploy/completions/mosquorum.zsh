#compdef mosquorum

autoload -U is-at-least

_mosquorum() {
    typeset -A opt_args
    typeset -a _arguments_options
    local ret=1

    if is-at-least 5.2; then
        _arguments_options=(-s -S -C)
    else
        _arguments_options=(-s -C)
    fi

    local context curcontext="$curcontext" state line
    _arguments "${_arguments_options[@]}" : \
'-c+[mosquitto.conf to read; without it only this machine can connect.]:FILE:_files' \
'--config-file=[mosquitto.conf to read; without it only this machine can connect.]:FILE:_files' \
'*-p+[listen on this port, this machine only; may be repeated, at most 10 times; ignored when the file has a listener.]:PORT:_default' \
'*--port=[listen on this port, this machine only; may be repeated, at most 10 times; ignored when the file has a listener.]:PORT:_default' \
'--tls-keylog=[write TLS secrets to a file, for debugging only.]:FILE:_files' \
'--local-cluster=[run N nodes on this machine, to try a cluster out.]:N:_default' \
'-d[go to the background after starting.]' \
'--daemon[go to the background after starting.]' \
'-q[log nothing, whatever the file and -v say.]' \
'--quiet[log nothing, whatever the file and -v say.]' \
'-v[log everything, whatever the file says.]' \
'--verbose[log everything, whatever the file says.]' \
'--test-config[check the configuration file and exit.]' \
'--options[list every option of the configuration file and what becomes of it.]' \
'--version[show the version.]' \
'-h[Print help]' \
'--help[Print help]' \
":: :_mosquorum_commands" \
"*::: :->mosquorum" \
&& ret=0
    case $state in
    (mosquorum)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:mosquorum-command-$line[1]:"
        case $line[1] in
            (cluster)
_arguments "${_arguments_options[@]}" : \
'--socket=[cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data]:PATH:_files' \
'-c+[take it from this configuration file]:FILE:_files' \
'--config-file=[take it from this configuration file]:FILE:_files' \
'--json[answer as JSON on stdout, errors too; progress is on stderr]' \
'-h[Print help]' \
'--help[Print help]' \
":: :_mosquorum__subcmd__cluster_commands" \
"*::: :->cluster" \
&& ret=0

    case $state in
    (cluster)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:mosquorum-cluster-command-$line[1]:"
        case $line[1] in
            (status)
_arguments "${_arguments_options[@]}" : \
'--socket=[cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data]:PATH:_files' \
'-c+[take it from this configuration file]:FILE:_files' \
'--config-file=[take it from this configuration file]:FILE:_files' \
'--json[answer as JSON on stdout, errors too; progress is on stderr]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(add)
_arguments "${_arguments_options[@]}" : \
'--socket=[cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data]:PATH:_files' \
'-c+[take it from this configuration file]:FILE:_files' \
'--config-file=[take it from this configuration file]:FILE:_files' \
'--json[answer as JSON on stdout, errors too; progress is on stderr]' \
'-h[Print help]' \
'--help[Print help]' \
':name -- the node'\''s cluster_name:_default' \
':address -- how the other nodes reach it:_hosts' \
&& ret=0
;;
(remove)
_arguments "${_arguments_options[@]}" : \
'--drain=[time for its clients to go elsewhere; who is left is disconnected]:SECONDS:_default' \
'--socket=[cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data]:PATH:_files' \
'-c+[take it from this configuration file]:FILE:_files' \
'--config-file=[take it from this configuration file]:FILE:_files' \
'--json[answer as JSON on stdout, errors too; progress is on stderr]' \
'-h[Print help]' \
'--help[Print help]' \
':name -- the node'\''s cluster_name:_default' \
&& ret=0
;;
(transfer-leader)
_arguments "${_arguments_options[@]}" : \
'--socket=[cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data]:PATH:_files' \
'-c+[take it from this configuration file]:FILE:_files' \
'--config-file=[take it from this configuration file]:FILE:_files' \
'--json[answer as JSON on stdout, errors too; progress is on stderr]' \
'-h[Print help]' \
'--help[Print help]' \
'::name -- this one; the node that is furthest, if nothing is said:_default' \
&& ret=0
;;
(resize)
_arguments "${_arguments_options[@]}" : \
'--drain=[time for their clients to go elsewhere; who is left is disconnected]:SECONDS:_default' \
'--socket=[cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data]:PATH:_files' \
'-c+[take it from this configuration file]:FILE:_files' \
'--config-file=[take it from this configuration file]:FILE:_files' \
'--json[answer as JSON on stdout, errors too; progress is on stderr]' \
'-h[Print help]' \
'--help[Print help]' \
':voters -- an odd number of nodes:_default' \
&& ret=0
;;
(accept-time)
_arguments "${_arguments_options[@]}" : \
'--socket=[cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data]:PATH:_files' \
'-c+[take it from this configuration file]:FILE:_files' \
'--config-file=[take it from this configuration file]:FILE:_files' \
'--json[answer as JSON on stdout, errors too; progress is on stderr]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
        esac
    ;;
esac
;;
(drain)
_arguments "${_arguments_options[@]}" : \
'(--cancel)--rate=[clients per second; 500 if nothing is said]:N:_default' \
'--socket=[cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data]:PATH:_files' \
'-c+[take it from this configuration file]:FILE:_files' \
'--config-file=[take it from this configuration file]:FILE:_files' \
'--cancel[the node goes on\: clients and bridges may come again]' \
'--json[answer as JSON on stdout, errors too; progress is on stderr]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(recover)
_arguments "${_arguments_options[@]}" : \
'-c+[the node'\''s configuration file]:FILE:_files' \
'--config-file=[the node'\''s configuration file]:FILE:_files' \
'--force-new-cluster[make this node the only member of a new cluster that has what it has; members of the old cluster must never be started again with their old data]' \
'--json[answer as JSON on stdout, errors too]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(healthcheck)
_arguments "${_arguments_options[@]}" : \
'--url=[what to ask; if nothing is said, /readyz at the health_listener of the environment or of the configuration in its usual place, else 127.0.0.1\:9883]:URL:_urls' \
'-c+[take the address from this configuration file]:FILE:_files' \
'--config-file=[take the address from this configuration file]:FILE:_files' \
'--wait=[ask again until it is so, at most for this long]:SECONDS:_default' \
'--json[answer as JSON on stdout, errors too]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(bench)
_arguments "${_arguments_options[@]}" : \
'*-a+[repeat for several nodes, clients are spread over them; default 127.0.0.1\:1883]:HOST:PORT:_hosts' \
'*--address=[repeat for several nodes, clients are spread over them; default 127.0.0.1\:1883]:HOST:PORT:_hosts' \
'*--subscriber-address=[where subscribers connect; default\: the next of --address]:HOST:PORT:_hosts' \
'--qos=[0, 1 or 2; default 0, but 1 in retained, durable and failover (which knows 1 alone)]:QOS:_default' \
'--protocol=[version of MQTT\: 3.1, 3.1.1 or 5]:VERSION:(3.1 3.1.1 5)' \
'--payload=[payload of a message, at least 16]:BYTES:_default' \
'--publishers=[number of publishers; see the scenarios]:N:_default' \
'--subscribers=[number of subscribers; see the scenarios]:N:_default' \
'--connections=[number of subscribers; see the scenarios]:N:_default' \
'--pairs=[so many publishers and as many subscribers]:N:_default' \
'--messages=[of each publisher, in scenarios that count them]:N:_default' \
'--window=[messages of a publisher under way at most; default 100, but 200 in durable and retained]:N:_default' \
'--rate=[messages per second of all publishers, whatever the broker does; latency counts from the time at which a message was due. Default\: as fast as the window allows; failover 1000]:N:_default' \
'--seconds=[how long is measured; default 10, failover 30]:S:_default' \
'--warm-up=[before that, not measured; default 1, failover 3]:S:_default' \
'--cafile=[TLS, with this CA]:FILE:_files' \
'--cert=[the client'\''s certificate, with --key]:FILE:_files' \
'--key=[its key]:FILE:_files' \
'-u+[user name of all clients]:NAME:_default' \
'--username=[user name of all clients]:NAME:_default' \
'-P+[password of all clients]:TEXT:_default' \
'--password=[password of all clients]:TEXT:_default' \
'*--broker-pid=[repeat for several nodes\: their CPU seconds and memory, on this machine only]:PID:_default' \
'--kill-pid=[failover\: SIGKILL this process when the warm-up is over]:PID:_default' \
'--threads=[threads of the load generator]:N:_default' \
'--durable[subscribers of p2p, fanin and fanout have durable sessions]' \
'--tls[TLS, with the system'\''s CAs]' \
'--insecure[TLS, whatever name the broker'\''s certificate has]' \
'--json[the result as JSON on stdout]' \
'-q[no progress line]' \
'--quiet[no progress line]' \
'-h[Print help]' \
'--help[Print help]' \
':scenario -- one of those below:((p2p\:"pairs of one publisher and one subscriber (--pairs 10)"
fanout\:"one publisher, many subscribers (--subscribers 100)"
fanin\:"many publishers, few subscribers to all of them (--publishers 50 --subscribers 1)"
shared\:"many publishers, one shared subscription (--publishers 50 --subscribers 5)"
connect\:"connections per second and memory of an idle one (--connections 1000)"
retained\:"sets retained messages and replays them to a new subscriber (--messages 100000)"
durable\:"messages for offline sessions, then their delivery (--pairs 10 --messages 10000 each)"
failover\:"a steady load on nodes, one of which you kill; the longest pauses (--pairs 3 --rate 1000)"
inside\:"a publish to three subscribers inside this process, one thread\: for counting instructions"))' \
&& ret=0
;;
(completions)
_arguments "${_arguments_options[@]}" : \
'-h[Print help]' \
'--help[Print help]' \
':shell -- bash, zsh or fish:(bash zsh fish)' \
'::program -- mosquorum or mosquorum_passwd:(mosquorum mosquorum_passwd)' \
&& ret=0
;;
        esac
    ;;
esac
}

(( $+functions[_mosquorum_commands] )) ||
_mosquorum_commands() {
    local commands; commands=(
'cluster:Show and change the cluster of a node' \
'drain:Have a node hand over what it does, before it is stopped' \
'recover:Make a survivor of a lost majority a cluster of its own' \
'healthcheck:Ask a node'\''s health_listener whether clients can be sent to it' \
'bench:Load any MQTT broker and print what was measured; order, losses and duplicates are checked in every scenario' \
'completions:Print completions for a shell' \
    )
    _describe -t commands 'mosquorum commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__bench_commands] )) ||
_mosquorum__subcmd__bench_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum bench commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__cluster_commands] )) ||
_mosquorum__subcmd__cluster_commands() {
    local commands; commands=(
'status:Show members, leader, and how far each node is' \
'add:Let a node of this name join' \
'remove:Take a node out for good; its clients go to other nodes before that' \
'transfer-leader:Make a node the leader' \
'resize:Go to another number of voters; the nodes of the last names leave' \
'accept-time:After all nodes were down\: let time go on with the leader'\''s clock' \
    )
    _describe -t commands 'mosquorum cluster commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__cluster__subcmd__accept-time_commands] )) ||
_mosquorum__subcmd__cluster__subcmd__accept-time_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum cluster accept-time commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__cluster__subcmd__add_commands] )) ||
_mosquorum__subcmd__cluster__subcmd__add_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum cluster add commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__cluster__subcmd__remove_commands] )) ||
_mosquorum__subcmd__cluster__subcmd__remove_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum cluster remove commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__cluster__subcmd__resize_commands] )) ||
_mosquorum__subcmd__cluster__subcmd__resize_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum cluster resize commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__cluster__subcmd__status_commands] )) ||
_mosquorum__subcmd__cluster__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum cluster status commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__cluster__subcmd__transfer-leader_commands] )) ||
_mosquorum__subcmd__cluster__subcmd__transfer-leader_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum cluster transfer-leader commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__completions_commands] )) ||
_mosquorum__subcmd__completions_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum completions commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__drain_commands] )) ||
_mosquorum__subcmd__drain_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum drain commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__healthcheck_commands] )) ||
_mosquorum__subcmd__healthcheck_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum healthcheck commands' commands "$@"
}
(( $+functions[_mosquorum__subcmd__recover_commands] )) ||
_mosquorum__subcmd__recover_commands() {
    local commands; commands=()
    _describe -t commands 'mosquorum recover commands' commands "$@"
}

if [ "$funcstack[1]" = "_mosquorum" ]; then
    _mosquorum "$@"
else
    compdef _mosquorum mosquorum
fi
