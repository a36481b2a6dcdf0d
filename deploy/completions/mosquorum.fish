# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_mosquorum_global_optspecs
    string join \n c/config-file= d/daemon p/port= q/quiet v/verbose test-config tls-keylog= local-cluster= options version h/help
end

function __fish_mosquorum_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_mosquorum_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_mosquorum_using_subcommand
    set -l cmd (__fish_mosquorum_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c mosquorum -n "__fish_mosquorum_needs_command" -s c -l config-file -d 'mosquitto.conf to read; without it only this machine can connect.' -r -F
complete -c mosquorum -n "__fish_mosquorum_needs_command" -s p -l port -d 'listen on this port, this machine only; may be repeated, at most 10 times; ignored when the file has a listener.' -r
complete -c mosquorum -n "__fish_mosquorum_needs_command" -l tls-keylog -d 'write TLS secrets to a file, for debugging only.' -r -F
complete -c mosquorum -n "__fish_mosquorum_needs_command" -l local-cluster -d 'run N nodes on this machine, to try a cluster out.' -r
complete -c mosquorum -n "__fish_mosquorum_needs_command" -s d -l daemon -d 'go to the background after starting.'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -s q -l quiet -d 'log nothing, whatever the file and -v say.'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -s v -l verbose -d 'log everything, whatever the file says.'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -l test-config -d 'check the configuration file and exit.'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -l options -d 'list every option of the configuration file and what becomes of it.'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -l version -d 'show the version.'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -f -a "cluster" -d 'Show and change the cluster of a node'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -f -a "drain" -d 'Have a node hand over what it does, before it is stopped'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -f -a "recover" -d 'Make a survivor of a lost majority a cluster of its own'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -f -a "healthcheck" -d 'Ask a node\'s health_listener whether clients can be sent to it'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -f -a "bench" -d 'Load any MQTT broker and print what was measured; order, losses and duplicates are checked in every scenario'
complete -c mosquorum -n "__fish_mosquorum_needs_command" -f -a "completions" -d 'Print completions for a shell'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and not __fish_seen_subcommand_from status add remove transfer-leader resize accept-time" -l socket -d 'cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and not __fish_seen_subcommand_from status add remove transfer-leader resize accept-time" -s c -l config-file -d 'take it from this configuration file' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and not __fish_seen_subcommand_from status add remove transfer-leader resize accept-time" -l json -d 'answer as JSON on stdout, errors too; progress is on stderr'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and not __fish_seen_subcommand_from status add remove transfer-leader resize accept-time" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and not __fish_seen_subcommand_from status add remove transfer-leader resize accept-time" -f -a "status" -d 'Show members, leader, and how far each node is'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and not __fish_seen_subcommand_from status add remove transfer-leader resize accept-time" -f -a "add" -d 'Let a node of this name join'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and not __fish_seen_subcommand_from status add remove transfer-leader resize accept-time" -f -a "remove" -d 'Take a node out for good; its clients go to other nodes before that'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and not __fish_seen_subcommand_from status add remove transfer-leader resize accept-time" -f -a "transfer-leader" -d 'Make a node the leader'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and not __fish_seen_subcommand_from status add remove transfer-leader resize accept-time" -f -a "resize" -d 'Go to another number of voters; the nodes of the last names leave'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and not __fish_seen_subcommand_from status add remove transfer-leader resize accept-time" -f -a "accept-time" -d 'After all nodes were down: let time go on with the leader\'s clock'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from status" -l socket -d 'cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from status" -s c -l config-file -d 'take it from this configuration file' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from status" -l json -d 'answer as JSON on stdout, errors too; progress is on stderr'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from add" -l socket -d 'cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from add" -s c -l config-file -d 'take it from this configuration file' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from add" -l json -d 'answer as JSON on stdout, errors too; progress is on stderr'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from remove" -l drain -d 'time for its clients to go elsewhere; who is left is disconnected' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from remove" -l socket -d 'cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from remove" -s c -l config-file -d 'take it from this configuration file' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from remove" -l json -d 'answer as JSON on stdout, errors too; progress is on stderr'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from transfer-leader" -l socket -d 'cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from transfer-leader" -s c -l config-file -d 'take it from this configuration file' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from transfer-leader" -l json -d 'answer as JSON on stdout, errors too; progress is on stderr'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from transfer-leader" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from resize" -l drain -d 'time for their clients to go elsewhere; who is left is disconnected' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from resize" -l socket -d 'cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from resize" -s c -l config-file -d 'take it from this configuration file' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from resize" -l json -d 'answer as JSON on stdout, errors too; progress is on stderr'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from resize" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from accept-time" -l socket -d 'cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from accept-time" -s c -l config-file -d 'take it from this configuration file' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from accept-time" -l json -d 'answer as JSON on stdout, errors too; progress is on stderr'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand cluster; and __fish_seen_subcommand_from accept-time" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand drain" -l rate -d 'clients per second; 500 if nothing is said' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand drain" -l socket -d 'cluster_admin_socket of the node; if nothing is said, looked for in this folder, by the configurations in their usual places, and beside their data' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand drain" -s c -l config-file -d 'take it from this configuration file' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand drain" -l cancel -d 'the node goes on: clients and bridges may come again'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand drain" -l json -d 'answer as JSON on stdout, errors too; progress is on stderr'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand drain" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand recover" -s c -l config-file -d 'the node\'s configuration file' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand recover" -l force-new-cluster -d 'make this node the only member of a new cluster that has what it has; members of the old cluster must never be started again with their old data'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand recover" -l json -d 'answer as JSON on stdout, errors too'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand recover" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand healthcheck" -l url -d 'what to ask; if nothing is said, /readyz at the health_listener of the environment or of the configuration in its usual place, else 127.0.0.1:9883' -r -f
complete -c mosquorum -n "__fish_mosquorum_using_subcommand healthcheck" -s c -l config-file -d 'take the address from this configuration file' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand healthcheck" -l wait -d 'ask again until it is so, at most for this long' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand healthcheck" -l json -d 'answer as JSON on stdout, errors too'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand healthcheck" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -s a -l address -d 'repeat for several nodes, clients are spread over them; default 127.0.0.1:1883' -r -f -a "(__fish_print_hostnames)"
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l subscriber-address -d 'where subscribers connect; default: the next of --address' -r -f -a "(__fish_print_hostnames)"
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l qos -d '0, 1 or 2; default 0, but 1 in retained, durable and failover (which knows 1 alone)' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l protocol -d 'version of MQTT: 3.1, 3.1.1 or 5' -r -f -a "3.1\t''
3.1.1\t''
5\t''"
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l payload -d 'payload of a message, at least 16' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l publishers -d 'number of publishers; see the scenarios' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l subscribers -l connections -d 'number of subscribers; see the scenarios' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l pairs -d 'so many publishers and as many subscribers' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l messages -d 'of each publisher, in scenarios that count them' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l window -d 'messages of a publisher under way at most; default 100, but 200 in durable and retained' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l rate -d 'messages per second of all publishers, whatever the broker does; latency counts from the time at which a message was due. Default: as fast as the window allows; failover 1000' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l seconds -d 'how long is measured; default 10, failover 30' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l warm-up -d 'before that, not measured; default 1, failover 3' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l cafile -d 'TLS, with this CA' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l cert -d 'the client\'s certificate, with --key' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l key -d 'its key' -r -F
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -s u -l username -d 'user name of all clients' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -s P -l password -d 'password of all clients' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l broker-pid -d 'repeat for several nodes: their CPU seconds and memory, on this machine only' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l kill-pid -d 'failover: SIGKILL this process when the warm-up is over' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l threads -d 'threads of the load generator' -r
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l durable -d 'subscribers of p2p, fanin and fanout have durable sessions'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l tls -d 'TLS, with the system\'s CAs'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l insecure -d 'TLS, whatever name the broker\'s certificate has'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -l json -d 'the result as JSON on stdout'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -s q -l quiet -d 'no progress line'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand bench" -s h -l help -d 'Print help'
complete -c mosquorum -n "__fish_mosquorum_using_subcommand completions" -s h -l help -d 'Print help'
