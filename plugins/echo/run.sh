#!/bin/sh
# echo: smoke test and fault injection. Needs sh, awk, date and sleep, nothing else.
#
# The request is walked, not decoded: the literals that matter are copied into the answer as they
# stand, so any Unicode and any escape survives, and look-alikes elsewhere can not confuse it.

PATH=${PATH:-/usr/local/bin:/usr/bin:/bin}
LC_ALL=C # awk counts bytes
NOW=$(date -u +%Y-%m-%dT%H:%M:%SZ)
export PATH LC_ALL NOW

# First line: what to do besides answering. The rest: the answer.
reply=$(awk '
function fail(why) {
    print "exit 1"
    print "{\"status\":\"error\",\"error\":\"invalid JSON input: " why "\",\"retry\":false,\"logs\":[{\"level\":\"error\",\"message\":\"invalid JSON input: " why "\"}]}"
    failed = 1
    exit
}
# Position after the string that begins at i; its raw text is left in "literal".
function string(i,    start, c) {
    start = ++i
    while ((c = substr(text, i, 1)) != "\"") {
        if (c == "" || c < " ") fail("unfinished string")
        if (c == "\\") {
            c = substr(text, ++i, 1)
            if (c == "u") {
                if (substr(text, i + 1, 4) !~ /^[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]$/) fail("bad escape")
                i += 4
            } else if (c == "" || index("\"\\/bfnrt", c) == 0) fail("bad escape")
        }
        i++
    }
    literal = substr(text, start, i - start)
    return i + 1
}
# Notes a value that ended; what is no string has the kind of its first character.
function note(kind,    place) {
    place = ""
    if (depth == 1 && holder[1] == "{") place = key[1]
    if (depth == 2 && holder[2] == "{" && holder[1] == "{") place = key[1] "." key[2]
    if (depth == 3 && holder[3] == "{" && holder[2] == "{" && holder[1] == "{") place = key[1] "." key[2] "." key[3]
    # A value that is no string, or an object given anew, takes back what stood there before.
    if (place == "command" || place == "job_id" || place == "config.message" || place == "config.mode" ||
        place == "payload.message" || place == "event.payload.message") {
        if (kind == "string") value[place] = literal; else delete value[place]
    }
    if (place == "config") { delete value["config.message"]; delete value["config.mode"] }
    if (place == "payload") delete value["payload.message"]
    if (place == "event" || place == "event.payload") delete value["event.payload.message"]
}
function is_blank(raw) {
    gsub(/\\[nrt]|\\u00(0[9aAdD]|20)|[ ]/, "", raw)
    return raw == ""
}
# At most 16 KiB of a raw literal, cut between characters and never inside an escape.
function clipped(raw,    i, step, c) {
    if (length(raw) <= 16384) return raw
    for (i = 1; i <= 16384; i += step) {
        c = substr(raw, i, 1)
        step = 1
        if (c == "\\") {
            step = (substr(raw, i + 1, 1) == "u") ? 6 : 2
            if (tolower(substr(raw, i, 4)) ~ /^\\ud[89ab]/) step = 12
        } else if (c >= "\360") step = 4
        else if (c >= "\340") step = 3
        else if (c >= "\300") step = 2
        if (i + step > 16385) break
    }
    return substr(raw, 1, i - 1) " [cut]"
}
function log_of(level, raw) {
    return "\"logs\":[{\"level\":\"" level "\",\"message\":\"" raw "\"}]"
}
function error(raw) {
    raw = clipped(raw)
    return "{\"status\":\"error\",\"error\":\"" raw "\",\"retry\":false," log_of("error", raw) "}"
}
{ text = text $0 "\n" }
END {
    if (failed) exit
    expect = "value"
    i = 1
    while (1) {
        while ((c = substr(text, i, 1)) != "" && index(" \t\r\n", c)) i++
        if (c == "") break
        if (expect == "end") fail("text after the object")
        if (depth == 0 && c != "{") fail("not an object")
        if (expect == "comma") {
            closing = (holder[depth] == "{") ? "}" : "]"
            if (c == ",") { expect = (holder[depth] == "{") ? "key" : "value"; i++ }
            else if (c == closing) { depth--; i++; expect = depth ? "comma" : "end" }
            else fail("comma or end expected")
            continue
        }
        if (expect == "key" || expect == "first key") {
            if (c == "}" && expect == "first key") { depth--; i++; expect = depth ? "comma" : "end"; continue }
            if (c != "\"") fail("key expected")
            i = string(i)
            key[depth] = literal
            while ((c = substr(text, i, 1)) != "" && index(" \t\r\n", c)) i++
            if (c != ":") fail("colon expected")
            i++
            expect = "value"
            continue
        }
        if (c == "]" && expect == "first value") { depth--; i++; expect = depth ? "comma" : "end"; continue }
        if (c == "{" || c == "[") {
            note("container")
            holder[++depth] = c
            expect = (c == "{") ? "first key" : "first value"
            i++
            continue
        }
        if (c == "\"") { i = string(i); note("string") }
        else {
            start = i
            while ((c = substr(text, i, 1)) != "" && !index(" \t\r\n,]}", c)) i++
            word = substr(text, start, i - start)
            if (word !~ /^(true|false|null|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?)$/) fail("bad value")
            note("other")
        }
        expect = "comma"
    }
    if (expect != "end") fail(text ~ /^[ \t\r\n]*$/ ? "empty" : "unfinished object")

    now = ENVIRON["NOW"]
    command = ("command" in value) ? value["command"] : "poll"
    mode = value["config.mode"]
    message = value[(command == "handle") ? "event.payload.message" : "payload.message"]
    if (message == "") message = value["config.message"]
    if (is_blank(message)) message = "echo plugin ran"

    action = "answer"
    if (mode == "hang" || mode == "ignore_term") action = mode
    else if (mode ~ /^(sleep|exit|stderr|stdout):[0-9]+$/) { action = mode; sub(/:/, " ", action) }

    answer = ""
    if (mode == "protocol_error") answer = "{\"status\":\"ok\",\"state_updates\":{\"last_run\":\"" now "\"}"
    else if (command != "poll" && command != "health" && command != "handle") answer = error("unknown command: " command)
    else if (mode == "error") answer = error("echo plugin forced error (mode=error)")
    else if (mode == "exit78") { action = "exit 78"; answer = error("echo plugin forced exit 78 (mode=exit78)") }
    print action
    if (answer != "") { print answer; exit }

    events = ""
    if (mode == "event") events = "{\"type\":\"echo.event\",\"payload\":{\"message\":\"" message "\"}}"
    state = ""
    if (command != "health")
        state = "\"state_updates\":{\"last_run\":\"" now "\",\"job_id\":\"" value["job_id"] "\"},"
    answer = "{\"status\":\"ok\",\"result\":\"" message "\",\"events\":[" events "]," state log_of("info", clipped(message) " at " now) "}"
    if (length(answer) > 10485760) answer = error("response too large (" length(answer) " bytes)")
    print answer
}') || exit 1

line_end='
'
action=${reply%%"$line_end"*}
answer=${reply#*"$line_end"}

# A block of so many bytes, cheaply.
fill() {
    awk -v n="$1" 'BEGIN {
        block = "xxxxxxxxxxxxxxxx"
        while (length(block) < 65536) block = block block
        for (; n >= 65536; n -= 65536) printf "%s", block
        printf "%s", substr(block, 1, n)
    }'
}

case $action in
hang) # a child, so that a signal to the group ends both
    sleep 999 &
    wait ;;
ignore_term)
    trap '' TERM
    sleep 999 ;;
"sleep "*)
    sleep "${action#sleep }" &
    wait ;;
"stderr "*) fill "${action#stderr }" >&2 ;;
"stdout "*) # an answer of so many bytes in all, its newline included
    wanted=${action#stdout }
    frame=${answer%?}',"padding":""}'
    printf '%s' "${answer%?}"',"padding":"'
    [ "$wanted" -le $((${#frame} + 1)) ] || fill $((wanted - ${#frame} - 1))
    printf '"}\n'
    exit 0 ;;
esac

printf '%s\n' "$answer"

case $action in
"exit "*) exit "${action#exit }" ;;
esac
exit 0
