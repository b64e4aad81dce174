"""The words of the synthetic households: names, pastimes, wordings. Data alone, no logic.

Templates are filled with ``str.format``: ``{time}``, ``{sky}`` and ``{temp}`` from the situation,
``{dev}``, ``{it}``, ``{are}`` from the device, ``{vals}`` with settings in words. The generator
draws from these tuples by position, so adding a line changes what a seed makes.
"""

from __future__ import annotations

_NAMES = """
    Ada Albert Amara Anna Aria Astrid Ben Boris Camille Carmen Chloe Conrad Cyrus Daniel Dario
    Diego Edgar Eli Emil Enzo Ethan Felix Flora Freya Gemma Gloria Greta Hannah Hazel Helen Hugo
    Igor Ingrid Isaac Ivan Jack Jasper Jonas Julian Kai Katya Lara Leo Lionel Lucia Mabel Maja
    Margot Matteo Mei Milo Nadia Nina Nora Oliver Oscar Pablo Paul Philip Quentin Ravi Ruben Sam
    Sara Silas Sofia Stella Tara Tessa Uma Vera Viola Wanda Xenia Yusuf Zoe"""
NAMES = tuple(_NAMES.split())

PASTIMES: dict[str, tuple[str, ...]] = {
    "beekeeper": (
        "check on the hives",
        "plant some lavender",
        "read up on queen bees",
        "bottle some honey",
    ),
    "baker": (
        "knead the sourdough",
        "sift the flour",
        "try a new rye recipe",
        "glaze the cinnamon rolls",
    ),
    "violinist": (
        "practice the Bach partita",
        "rosin my bow",
        "tune my violin",
        "listen to a concerto",
    ),
    "novelist": (
        "write the next chapter",
        "reread my notes",
        "edit my manuscript",
        "outline a short story",
    ),
    "gardener": ("repot the orchids", "turn the compost", "prune the tomatoes", "sort my seeds"),
    "nurse": ("rest after a long shift", "iron my uniform", "study for the exam", "soak my feet"),
    "carpenter": (
        "sand the oak table",
        "glue up a drawer",
        "sketch a new bookcase",
        "oil my chisels",
    ),
    "teacher": (
        "grade some essays",
        "prepare a quiz",
        "plan tomorrow's lesson",
        "read to the children",
    ),
    "runner": (
        "stretch after my run",
        "log my miles",
        "lay out my running gear",
        "watch the marathon",
    ),
    "painter": ("prime a canvas", "rinse my brushes", "mix some blues", "finish the portrait"),
    "retired sailor": (
        "tie a few knots",
        "build a model ship",
        "chart an old voyage",
        "polish the brass bell",
    ),
    "programmer": (
        "fix a stubborn bug",
        "write more tests",
        "review some code",
        "play a round of chess",
    ),
    "potter": ("throw a few bowls", "wedge some clay", "glaze the new mugs", "clean the wheel"),
    "astronomer": (
        "set up the telescope",
        "read about comets",
        "look for Saturn",
        "catalog my photos",
    ),
    "cyclist": (
        "tune up my bike",
        "patch a tire",
        "plan a mountain route",
        "ride the indoor trainer",
    ),
    "seamstress": (
        "hem the curtains",
        "sew on some buttons",
        "cut out a pattern",
        "stitch the quilt",
    ),
    "historian": (
        "sort the old letters",
        "label some maps",
        "translate a charter",
        "read about the Tudors",
    ),
    "chef": ("simmer the stock", "write the menu", "test a new sauce", "sharpen the knives"),
    "yoga instructor": (
        "roll out my mat",
        "work on my breathing",
        "do a slow flow",
        "meditate for a while",
    ),
    "watchmaker": (
        "mend a pocket watch",
        "order some springs",
        "clean tiny gears",
        "wind the clocks",
    ),
    "birdwatcher": (
        "fill the bird feeder",
        "clean the binoculars",
        "update my sightings",
        "listen for owls",
    ),
    "guitarist": ("restring my guitar", "write some lyrics", "learn a new riff", "record a demo"),
    "dancer": ("rehearse the tango", "mend my shoes", "stretch at the barre", "choreograph a solo"),
    "chemist": (
        "write up my results",
        "check some formulas",
        "read a new paper",
        "plan an experiment",
    ),
    "collector": (
        "sort my stamps",
        "look for rare coins",
        "dust the figurines",
        "list some vinyl records",
    ),
    "farmer": (
        "look over the seed catalog",
        "read the farming news",
        "rest after the harvest",
        "do the accounts",
    ),
    "translator": (
        "finish a translation",
        "look up some idioms",
        "learn some Greek",
        "proofread a contract",
    ),
    "photographer": (
        "retouch some portraits",
        "charge my cameras",
        "clean my lenses",
        "print a few photos",
    ),
    "magician": (
        "practice a card trick",
        "fold my silk scarves",
        "prepare a new illusion",
        "shuffle some decks",
    ),
    "gamer": (
        "start a new quest",
        "level up my wizard",
        "stream with friends",
        "beat the final boss",
    ),
    "florist": ("arrange some peonies", "order fresh tulips", "trim the roses", "wrap a bouquet"),
    "mechanic": (
        "rebuild a carburetor",
        "sort my wrenches",
        "wash off the grease",
        "read the manual",
    ),
}

SPEAKING: dict[str, dict[str, tuple[str, ...]]] = {
    # How people talk to the assistant: what they open with, ask with, and go on with.
    "formal": {
        "hello": ("Good {time}.", "Greetings.", "Good {time}, assistant.", "Hello."),
        "ask": (
            "Could you please {do}?",
            "Would you kindly {do}?",
            "May I ask you to {do}?",
            "I would like you to {do}.",
            "I would appreciate it if you could {do}.",
        ),
        "next": ("Thank you. ", "Very good. ", "Furthermore, ", "In addition, ", "That is kind. "),
        "because": (
            "I intend to {pastime}.",
            "I shall soon {pastime}.",
            "I wish to {pastime}.",
            "It helps me to {pastime}.",
            "I have been meaning to {pastime}.",
        ),
        "bye": (
            "Thank you, that will be all",
            "That is everything, thank you",
            "No further requests",
            "Much obliged, nothing else",
            "I thank you, this will suffice",
            "No, that was all I wished for",
            "Excellent, I require nothing more",
        ),
    },
    "friendly": {
        "hello": ("Hi there!", "Hello!", "Good {time}!", "Hey assistant!", "Hi!"),
        "ask": (
            "Can you please {do}?",
            "Could you {do}, thanks?",
            "Would you {do}, please?",
            "Please {do}.",
            "I'd love it if you could {do}!",
        ),
        "next": ("Thanks! ", "Perfect! ", "Lovely! ", "Great, thank you! ", "Wonderful. Also, "),
        "because": (
            "I'm about to {pastime}!",
            "I can't wait to {pastime}.",
            "I'm in the mood to {pastime}.",
            "It's so nice when I {pastime}!",
            "Today I really want to {pastime}.",
        ),
        "bye": (
            "No, that's all, thank you so much",
            "Perfect, thanks a lot",
            "That's lovely, thank you",
            "All good now, thanks",
            "No, you've done plenty, thank you",
            "That's it for today, you're great",
            "Thank you, that makes me happy",
        ),
    },
    "casual": {
        "hello": ("Hey.", "Yo!", "Hey there.", "Howdy.", "Heya."),
        "ask": (
            "Can you {do}?",
            "Think you can {do}?",
            "Go ahead and {do}.",
            "Just {do}, will you?",
            "How about you {do}?",
        ),
        "next": ("Cool. ", "Nice. ", "Alright. ", "Sweet, and now ", "Ok, one more thing. "),
        "because": (
            "Gotta {pastime}.",
            "Gonna {pastime} in a bit.",
            "Time to {pastime}.",
            "Wanna {pastime} before long.",
            "Figured I'd {pastime}.",
        ),
        "bye": (
            "Nah, that's it",
            "I'm good, cheers",
            "That'll do, thanks",
            "Nope, all set",
            "Cheers, nothing else",
            "Nope, we're done here",
            "You rock, that's all",
        ),
    },
    "brisk": {
        "hello": ("{Time}.", "Assistant.", "Back home.", "Okay.", "Right."),
        "ask": (
            "Please {do}.",
            "{Do}.",
            "Can you {do}?",
            "I need you to {do}.",
            "Quick one, {do}.",
        ),
        "next": ("Good. ", "Next, ", "And ", "Also, ", "Then "),
        "because": (
            "I have to {pastime}.",
            "I need to {pastime}.",
            "Must {pastime} soon.",
            "I plan to {pastime} in ten minutes.",
            "First I'll {pastime}.",
        ),
        "bye": (
            "That's all",
            "Done for now, thanks",
            "Nothing else",
            "That is it, thanks",
            "No, we are finished",
            "Enough for this {time}",
            "Right, thanks",
        ),
    },
}

SITUATIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "weather": {
        "sunny": (
            "The sun is shining so brightly today.",
            "There's not a cloud in the sky.",
            "It's a gloriously sunny {time}.",
            "All this sunshine is pouring in through the windows.",
        ),
        "cloudy": (
            "The sky is all gray and cloudy.",
            "It's rather overcast this {time}.",
            "The clouds are hanging low today.",
            "It's a dull, cloudy {time} out there.",
        ),
        "rainy": (
            "The rain is tapping against my window.",
            "It's pouring outside.",
            "What a rainy {time} it is.",
            "I got caught in the rain on my way home.",
        ),
        "snowy": (
            "It's snowing like there's no tomorrow.",
            "The garden is all white with snow.",
            "Such a cozy {time} with the snow falling outside.",
            "The snow is piling up by the door.",
        ),
    },
    "outdoor_temp": {
        "very cold": (
            "It's freezing out there.",
            "My fingers are like ice.",
            "It's bitterly cold outside.",
        ),
        "cold": (
            "It's quite chilly outside.",
            "There's a cold draft in here.",
            "It's a cold {time}.",
        ),
        "mild": (
            "It's nice and mild outside.",
            "The air feels fresh and mild.",
            "Such a mild {time}.",
        ),
        "warm": (
            "It's a bit warm in here.",
            "It's pleasantly warm outside.",
            "What a warm {time}.",
        ),
        "hot": (
            "It's scorching outside.",
            "This heat is wearing me out.",
            "It's boiling hot this {time}.",
        ),
    },
    "time_of_day": {
        "morning": (
            "I just got out of bed.",
            "I'm having my first coffee.",
            "The day is just getting started.",
        ),
        "afternoon": (
            "Lunch is over and I have a quiet hour.",
            "I'm taking a break this afternoon.",
            "The afternoon is dragging on.",
        ),
        "evening": (
            "I just got home from work.",
            "Dinner is done and I want to unwind.",
            "It's been a long day.",
        ),
        "night": (
            "I can't sleep yet.",
            "It's getting late.",
            "Everyone else is already in bed.",
        ),
    },
    "day_of_week": {
        "weekday": ("Another busy weekday.", "It's been a hectic week so far."),
        "weekend": ("Finally the weekend.", "I love a slow weekend."),
    },
}

DEVICES: dict[str, tuple[str, str, str]] = {
    # In speech: name, pronoun, verb.
    "tv": ("TV", "it", "is"),
    "ac": ("AC", "it", "is"),
    "lights": ("lights", "them", "are"),
    "speaker": ("speaker", "it", "is"),
    "security": ("security system", "it", "is"),
}

SAYING: dict[str, tuple[str, ...]] = {
    # A setting in words; the population's dialect fixes the position in these tuples.
    "brightness": ("{v}% brightness", "brightness {v}", "a brightness of {v} percent"),
    "volume": ("volume {v}", "a volume of {v}", "volume level {v}"),
    "input_source": ("{v} as the input", "input {v}", "the {v} input"),
    "temperature": ("{v} degrees", "a temperature of {v}", "{v}°C"),
    "ac_mode": ("{v} mode", "the {v} program", "mode {v}"),
    "fan_speed": ("fan speed {v}", "the fan at {v}", "fan level {v}"),
    "color": ("a {v} color", "{v} light", "a {v} tone"),
    "lights_mode": ("{v} mode", "the {v} scene", "mode {v}"),
    "equalizer": ("a {v} equalizer", "the {v} preset", "{v} sound"),
    "armed": ("{v} mode", "{v} status", "the {v} state"),
    "alarm_volume": ("alarm volume {v}", "an alarm volume of {v}", "the alarm at {v}"),
}

FRAMES = (
    "I've set the {dev} to {vals}",
    "the {dev} {are} now set to {vals}",
    "setting the {dev} to {vals}",
    "you now have the {dev} at {vals}",
    "I've adjusted the {dev} to {vals}",
    "the {dev} {are} ready with {vals}",
    "I've switched the {dev} over to {vals}",
    "I've put the {dev} on {vals}",
)
SHORT_FRAMES = ("{dev}: {vals}", "{dev} at {vals}", "{dev} set to {vals}", "{vals} for the {dev}")
USUAL = (
    "just the way you like {it}",
    "as always on a {sky} {time}",
    "the same as last time",
    "following your {time} routine",
    "in line with your preferences",
    "exactly as you usually have {it}",
)
HABITS = (
    "The change takes effect right away.",
    "I've saved this for next time.",
    "It may take a few seconds.",
    "You can undo this at any time.",
    "The house is listening.",
    "Your home is up to date.",
)
ASKING_BACK = (
    "what settings would you like for the {dev}?",
    "how would you like the {dev}?",
    "which values should I use for the {dev}?",
    "tell me how to set the {dev}, please.",
)
STATUS_FRAMES = (
    "the {dev} {are} currently at {vals}",
    "right now the {dev} {are} at {vals}",
    "the current setting of the {dev} is {vals}",
    "you have the {dev} at {vals}",
)
OFF_FRAMES = (
    "the {dev} {are} off now",
    "I've turned the {dev} off",
    "turning off the {dev}",
    "the {dev} {are} now switched off",
)
REMIND_FRAMES = (
    "I'll remind you to {chore}",
    "a reminder to {chore} is set",
    "I've noted that you want to {chore}",
    "reminder saved: {chore}",
)
WELCOME_FRAMES = (
    "you're welcome",
    "it's my pleasure",
    "I'm glad I could help",
    "anytime you need me",
)

OPENERS: dict[bool, tuple[str, ...]] = {
    # Wordings of formal and of informal replies.
    True: (
        "Certainly",
        "Of course",
        "Very well",
        "As you wish",
        "With pleasure",
        "Understood",
        "By all means",
        "Consider it done",
    ),
    False: (
        "Sure thing",
        "You got it",
        "No problem",
        "Got it",
        "Okey-dokey",
        "Alright then",
        "Easy peasy",
        "I'm on it",
    ),
}
CLOSERS: dict[bool, tuple[str, ...]] = {
    True: (
        "Is there anything else you would like me to adjust",
        "Please let me know if you require anything further",
        "I remain at your disposal",
        "May you have a pleasant {time}",
        "I trust this meets your expectations",
        "Do enjoy the rest of your {time}",
        "Your comfort is my foremost concern",
    ),
    False: (
        "Anything else you need",
        "Enjoy your {time}",
        "Just holler if you want something else",
        "Have a great one",
        "Kick back and relax",
        "Let me know if that's not right",
        "I've got your back",
    ),
}
QUESTIONS = frozenset(
    {"Is there anything else you would like me to adjust", "Anything else you need"}
)

REMARKS: dict[str, dict[str, tuple[str, ...]]] = {
    # What talkative replies add; a household hears about one of these topics.
    "weather": {
        "sunny": (
            "It should go nicely with all that sunshine.",
            "The sunny sky is a treat today.",
            "Don't forget your sunglasses if you go out.",
        ),
        "cloudy": (
            "That should brighten up a gray day.",
            "The clouds may clear up later.",
            "A cloudy sky calls for a bit of comfort.",
        ),
        "rainy": (
            "That should keep the rain out of your mind.",
            "The rain sounds lovely from inside.",
            "Take an umbrella if you have to go out.",
        ),
        "snowy": (
            "That should feel cozy with all this snow.",
            "The snow looks beautiful from indoors.",
            "Mind the icy steps if you go out.",
        ),
    },
    "time_of_day": {
        "morning": (
            "It's a fine way to start the day.",
            "The morning is all yours.",
            "A good breakfast would go well with it.",
        ),
        "afternoon": (
            "It's just right for a quiet afternoon.",
            "There is plenty of the day left.",
            "A cup of tea would go well with it.",
        ),
        "evening": (
            "It's just right for winding down.",
            "You've earned a calm evening.",
            "A light supper would go well with it.",
        ),
        "night": (
            "It should help you drift off to sleep.",
            "The night is nice and quiet.",
            "A glass of milk would go well with it.",
        ),
    },
    "outdoor_temp": {
        "very cold": (
            "You'll soon forget the frost outside.",
            "Stay wrapped up in this bitter cold.",
            "It's no weather for bare feet.",
        ),
        "cold": (
            "You'll soon forget the chill outside.",
            "Keep a sweater close by.",
            "It's a good time for thick socks.",
        ),
        "mild": (
            "It's lovely and mild outside.",
            "You could even open a window.",
            "The mild air does everybody good.",
        ),
        "warm": (
            "The weather is really pleasant.",
            "Keep some cold water close by.",
            "It's a good time for short sleeves.",
        ),
        "hot": (
            "You'll soon forget the heat outside.",
            "Drink plenty of water today.",
            "Keep the blinds down in this heat.",
        ),
    },
}

WANT_USUAL = (
    "set the {dev} the way I like {it}",
    "put the {dev} on my usual settings",
    "do the usual with the {dev}",
    "get the {dev} ready like always",
    "adjust the {dev} to how I like {it} on a {sky} {time}",
    "make the {dev} right for a {temp} {time} like this",
    "take care of the {dev} like always",
    "bring the {dev} to my {time} settings",
    "change the {dev} to what I prefer at this hour",
    "match the {dev} to this {sky} {time} the way I enjoy",
    "give me my favorite {dev} setup",
    "make the {dev} feel right for this {time}",
    "choose the {dev} settings I always ask for",
    "get the {dev} to where I want {it} on a {temp} {day}",
    "run my {time} routine for the {dev}",
    "pick what suits me best for the {dev}",
    "adjust the {dev} to my taste",
    "set up the {dev} for my {time}",
)
WANT_EXACT = (
    "set the {dev} to {vals}",
    "change the {dev} to {vals}",
    "put the {dev} on {vals}",
    "switch the {dev} to {vals}",
    "turn the {dev} to {vals}",
    "adjust the {dev} to {vals}",
)
WANT_SOMETHING = (
    "adjust the {dev} a bit",
    "do something about the {dev}",
    "turn on the {dev}",
    "change the {dev} for me today",
    "make the {dev} a little more comfortable",
)
ANSWERS = (
    "Let's go with {vals}.",
    "I'd say {vals} this time.",
    "Make it {vals}, please.",
    "How about {vals}?",
    "Today I'd like {vals}.",
    "{vals} should be right for now.",
)
TWEAKS = (
    "make it {vals} instead",
    "change the {dev} to {vals} after all",
    "bring the {dev} to {vals} now",
    "have the {dev} at {vals} rather than that",
)
WANT_STATUS = (
    "tell me what the {dev} {are} at right now",
    "check the current setting of the {dev}",
    "remind me what you just did with the {dev}",
    "say again how the {dev} {are} set",
)
WANT_OFF = (
    "turn off the {dev}",
    "switch the {dev} off for the rest of the {time}",
    "shut off the {dev} now",
)
CHORES = (
    "call my sister",
    "water the plants",
    "feed the cat",
    "take out the trash",
    "charge the blender",
    "lock the back door",
    "pick up the parcel",
    "take my medicine",
    "book a haircut",
    "pay the water bill",
    "buy some milk",
    "walk the dog",
    "empty the dishwasher",
    "hang up the laundry",
    "write to the landlord",
    "order new filters",
)
WHEN = ("later", "in an hour", "tomorrow", "before bed", "after lunch", "tonight", "on Friday")
WANT_REMINDER = (
    "remind me to {chore}",
    "make a note that I want to {chore}",
    "set a reminder to {chore}",
)
ADMIRING = (
    "The house feels so much better now",
    "It's just right in here now",
    "This is exactly what I wanted for a {temp} {time}",
    "What would I do without you on a {sky} {day}",
    "I might even {pastime} before I go out",
    "Maybe I'll {pastime} later",
    "That leaves me time to {pastime}",
    "I feel at home already",
    "The {time} can begin",
    "Talk to you again before the {day} is over",
    "It was a {temp} {day} and this helps a lot",
    "Let me just {pastime} in peace",
    "I can finally {pastime}",
    "Now I'm ready to {pastime}",
    "I'll go and {pastime} now",
    "You made my {time}",
    "This {sky} {time} is saved",
)
FULL_FORMS = {
    # What formal replies do not contract.
    "I've": "I have",
    "I'll": "I will",
    "I'm": "I am",
    "It's": "It is",
    "it's": "it is",
    "You're": "You are",
    "You'll": "You will",
    "You've": "You have",
    "Don't": "Do not",
    "don't": "do not",
    "that's": "that is",
}
TRIGGERS = ("time_of_day", "day_of_week", "sun_phase", "weather", "outdoor_temp")
