# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_mailrecv_global_optspecs
    string join \n c= d= l= lmtp peer= h/help V/version
end

function __fish_mailrecv_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_mailrecv_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_mailrecv_using_subcommand
    set -l cmd (__fish_mailrecv_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c mailrecv -n "__fish_mailrecv_needs_command" -s c -d 'Configuration file' -r -F
complete -c mailrecv -n "__fish_mailrecv_needs_command" -s d -d 'What to log, in place of the configuration\'s `debug`: letters of acfFhlrstw+, or - for none' -r
complete -c mailrecv -n "__fish_mailrecv_needs_command" -s l -d 'Where to log, in place of the configuration\'s `logfile`' -r
complete -c mailrecv -n "__fish_mailrecv_needs_command" -l peer -d 'The peer, when standard input is no connection' -r
complete -c mailrecv -n "__fish_mailrecv_needs_command" -l lmtp -d 'Speak LMTP, in place of the configuration\'s `protocol`'
complete -c mailrecv -n "__fish_mailrecv_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mailrecv -n "__fish_mailrecv_needs_command" -s V -l version -d 'Print version'
complete -c mailrecv -n "__fish_mailrecv_needs_command" -f -a "listen" -d 'Accept connections and start a receiver for each'
complete -c mailrecv -n "__fish_mailrecv_needs_command" -f -a "check" -d 'Look for mistakes in the configuration'
complete -c mailrecv -n "__fish_mailrecv_needs_command" -f -a "explain" -d 'Say what would happen to a message, and why, without doing anything'
complete -c mailrecv -n "__fish_mailrecv_needs_command" -f -a "replay" -d 'Say what of recorded sessions would be another way today, without doing anything'
complete -c mailrecv -n "__fish_mailrecv_needs_command" -f -a "metrics" -d 'Show what sessions have counted, as Prometheus reads it'
complete -c mailrecv -n "__fish_mailrecv_needs_command" -f -a "passwd" -d 'Make a line for the file of accounts'
complete -c mailrecv -n "__fish_mailrecv_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -s c -d 'Configuration file' -r -F
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -s d -d 'What to log, in place of the configuration\'s `debug`: letters of acfFhlrstw+, or - for none' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -s l -d 'Where to log, in place of the configuration\'s `logfile`' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l metrics -d 'Where Prometheus may fetch the metrics' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l socket-mode -d 'The mode of Unix sockets [default: 660]' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l socket-group -d 'The group of Unix sockets [default: ours]' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l max-processes -d 'Sessions at once' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l max-per-address -d 'Sessions at once with one peer' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l grace -d 'How long sessions may go on after SIGTERM' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l count -d 'Stop when so many messages have been taken' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l timeout -d 'Stop with status 124 when so much time has passed' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l ready-file -d 'Make this file when connections are accepted, with the addresses in it, a line each' -r -F
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l attachments -d 'Make files of the attachments of these messages' -r -F
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l lmtp -d 'Speak LMTP, in place of the configuration\'s `protocol`'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -l json -d 'Print each message that is taken as a line of JSON'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand listen" -s h -l help -d 'Print help'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand check" -s c -d 'Configuration file' -r -F
complete -c mailrecv -n "__fish_mailrecv_using_subcommand check" -s d -d 'What to log, in place of the configuration\'s `debug`: letters of acfFhlrstw+, or - for none' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand check" -s l -d 'Where to log, in place of the configuration\'s `logfile`' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand check" -l replay -d 'Play the transcripts in this folder as well' -r -F
complete -c mailrecv -n "__fish_mailrecv_using_subcommand check" -l lmtp -d 'Speak LMTP, in place of the configuration\'s `protocol`'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand check" -s v -d 'Say so too when there are none, and what the sandbox allows'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand check" -l strict -d 'Exit with 1 if there are warnings'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand check" -l index -d 'Make indexes of files with many rules, so that sessions need not read these one by one'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand check" -s h -l help -d 'Print help'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand explain" -s c -d 'Configuration file' -r -F
complete -c mailrecv -n "__fish_mailrecv_using_subcommand explain" -s d -d 'What to log, in place of the configuration\'s `debug`: letters of acfFhlrstw+, or - for none' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand explain" -s l -d 'Where to log, in place of the configuration\'s `logfile`' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand explain" -l peer -d 'Who sends' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand explain" -l from -d 'The sender' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand explain" -l rcpt -d 'The recipient, or one of several' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand explain" -l auth -d 'The user that the peer has logged in as' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand explain" -l lmtp -d 'Speak LMTP, in place of the configuration\'s `protocol`'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand explain" -l tls -d 'The connection is under TLS'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand explain" -l json -d 'Answer with one object of JSON'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand explain" -s h -l help -d 'Print help'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand replay" -s c -d 'Configuration file' -r -F
complete -c mailrecv -n "__fish_mailrecv_using_subcommand replay" -s d -d 'What to log, in place of the configuration\'s `debug`: letters of acfFhlrstw+, or - for none' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand replay" -s l -d 'Where to log, in place of the configuration\'s `logfile`' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand replay" -l lmtp -d 'Speak LMTP, in place of the configuration\'s `protocol`'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand replay" -l json -d 'Answer with one object of JSON for each of them'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand replay" -s h -l help -d 'Print help'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand metrics" -s c -d 'Configuration file' -r -F
complete -c mailrecv -n "__fish_mailrecv_using_subcommand metrics" -s d -d 'What to log, in place of the configuration\'s `debug`: letters of acfFhlrstw+, or - for none' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand metrics" -s l -d 'Where to log, in place of the configuration\'s `logfile`' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand metrics" -l lmtp -d 'Speak LMTP, in place of the configuration\'s `protocol`'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand metrics" -s h -l help -d 'Print help'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand passwd" -s c -d 'Configuration file' -r -F
complete -c mailrecv -n "__fish_mailrecv_using_subcommand passwd" -s d -d 'What to log, in place of the configuration\'s `debug`: letters of acfFhlrstw+, or - for none' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand passwd" -s l -d 'Where to log, in place of the configuration\'s `logfile`' -r
complete -c mailrecv -n "__fish_mailrecv_using_subcommand passwd" -l hash -d 'In which form the password is kept' -r -f -a "argon2id\t''
scram-sha-256\t''"
complete -c mailrecv -n "__fish_mailrecv_using_subcommand passwd" -l lmtp -d 'Speak LMTP, in place of the configuration\'s `protocol`'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand passwd" -s h -l help -d 'Print help'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand help; and not __fish_seen_subcommand_from listen check explain replay metrics passwd help" -f -a "listen" -d 'Accept connections and start a receiver for each'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand help; and not __fish_seen_subcommand_from listen check explain replay metrics passwd help" -f -a "check" -d 'Look for mistakes in the configuration'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand help; and not __fish_seen_subcommand_from listen check explain replay metrics passwd help" -f -a "explain" -d 'Say what would happen to a message, and why, without doing anything'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand help; and not __fish_seen_subcommand_from listen check explain replay metrics passwd help" -f -a "replay" -d 'Say what of recorded sessions would be another way today, without doing anything'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand help; and not __fish_seen_subcommand_from listen check explain replay metrics passwd help" -f -a "metrics" -d 'Show what sessions have counted, as Prometheus reads it'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand help; and not __fish_seen_subcommand_from listen check explain replay metrics passwd help" -f -a "passwd" -d 'Make a line for the file of accounts'
complete -c mailrecv -n "__fish_mailrecv_using_subcommand help; and not __fish_seen_subcommand_from listen check explain replay metrics passwd help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
